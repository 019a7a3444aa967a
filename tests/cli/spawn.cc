#include "tests/cli/spawn.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

namespace fs = std::filesystem;

namespace retort::testing {

std::string Finished::last_error_line() const {
  const std::string text = err.empty() ? "" : err.substr(0, err.size() - 1);
  return text.substr(text.rfind('\n') + 1);
}

int Finished::lines_of_program() const {
  std::istringstream lines(err);
  int count = 0;
  for (std::string line; std::getline(lines, line);) count += line.starts_with("retort:");
  return count;
}

Process::Process(const std::vector<std::string>& arguments, const fs::path& directory, const std::string& out) {
  static int count = 0;
  const fs::path base = fs::path(::testing::TempDir()) / ("spawn-" + std::to_string(::getpid()));
  const std::string number = std::to_string(count++);
  out_ = out.empty() ? base.string() + "-out-" + number : out;
  err_ = base.string() + "-err-" + number;
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ != 0) return;
  ::signal(SIGPIPE, SIG_DFL);
  const int out_fd = ::open(out_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const int err_fd = ::open(err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (::chdir(directory.c_str()) != 0 || ::dup2(out_fd, 1) < 0 || ::dup2(err_fd, 2) < 0) ::_exit(126);
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

void Process::signal(int number) const { ::kill(pid_, number); }

bool Process::running() const {
  siginfo_t ended{};
  return ::waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == 0;
}

Finished Process::wait() {
  int status = 0;
  ::waitpid(pid_, &status, 0);
  Finished result;
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (fs::is_regular_file(out_)) result.out = read_file(out_);
  result.err = read_file(err_);
  fs::remove(err_);
  if (fs::is_regular_file(out_)) fs::remove(out_);
  return result;
}

Finished run(const std::vector<std::string>& arguments, const fs::path& directory) {
  return Process(arguments, directory).wait();
}

fs::path fresh_directory(const std::string& name) {
  const fs::path path = fs::path(::testing::TempDir()) / (name + "-" + std::to_string(::getpid()));
  fs::remove_all(path);
  fs::create_directories(path);
  return fs::canonical(path);
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void write_file(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

}  // namespace retort::testing
