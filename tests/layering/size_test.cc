// The size budget: files and functions that a reader can hold in the head.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace {

namespace fs = std::filesystem;

constexpr int kMaxFileLines = 500, kMaxFunctionLines = 100;

bool opens_function(const std::string& line) {
  if (line.empty() || line[0] == ' ' || line[0] == '#' || line[0] == '}' || line.back() != '{') return false;
  for (const char* other : {"namespace", "struct", "class", "enum", "union", "extern \"C\"", "constexpr", "const "})
    if (line.starts_with(other) && line.find('(') == std::string::npos) return false;
  return !line.starts_with("namespace") && !line.starts_with("struct") && !line.starts_with("class");
}

// Functions at namespace level begin and end in column 0: that is how clang-format leaves them.
void check_file(const fs::path& path, bool kernels) {
  std::ifstream in(path);
  std::string name, line;
  int number = 0, begin = 0;
  while (std::getline(in, line)) {
    ++number;
    if (opens_function(line)) begin = number, name = line;
    if (!line.starts_with('}') || begin == 0) continue;
    EXPECT_TRUE(kernels || number - begin < kMaxFunctionLines) << path << ":" << begin << " " << name;
    begin = 0;
  }
  EXPECT_LE(number, kMaxFileLines) << path;
}

TEST(Size, FilesAndFunctionsStayReadable) {
  const fs::path root = RETORT_SOURCE_DIR;
  int files = 0;
  for (const char* folder :
       {"core", "model", "runtime", "quantize", "prune", "distill", "export", "eval", "recipes", "cli", "bench"})
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc" && extension != ".cu") continue;
      check_file(entry.path(), entry.path().string().find("kernel") != std::string::npos);
      ++files;
    }
  EXPECT_GT(files, 30) << "the sources were not found";
}

}  // namespace
