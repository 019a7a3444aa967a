// Runs a program as a user would: arguments in, exit code and both output streams out.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace retort::testing {

struct Finished {
  int code = -1;  // exit code, or 128 + the signal that ended it
  std::string out, err;
  std::string last_error_line() const;
  int lines_of_program() const;  // lines on standard error that begin with "retort:"
};

class Process {
 public:
  // Starts `arguments[0]` in `directory`. `out` names a file for standard output instead of the captured one.
  Process(const std::vector<std::string>& arguments, const std::filesystem::path& directory,
          const std::string& out = "");
  void signal(int number) const;
  bool running() const;
  Finished wait();

 private:
  int pid_;
  std::filesystem::path out_, err_;
};

Finished run(const std::vector<std::string>& arguments, const std::filesystem::path& directory);
// An empty directory of that name under the test's temporary directory.
std::filesystem::path fresh_directory(const std::string& name);
std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::string& text);

}  // namespace retort::testing
