// Holds the picture of ARCHITECTURE.md against the code: who may include and link whom, and who may see LibTorch.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;

const fs::path kRoot = RETORT_SOURCE_DIR;
const Names kCore{"core/base", "core/arch", "core/pack", "core/tokenizer", "core/checkpoint"};

Names with(Names base, const Names& more) {
  base.insert(more.begin(), more.end());
  return base;
}

// Folder -> the folders it may use, besides itself.
const std::map<std::string, Names> kAllowed{
    {"core/base", {}},
    {"core/arch", {"core/base"}},
    {"core/pack", {"core/base"}},
    {"core/tokenizer", {"core/base"}},
    {"core/checkpoint", {"core/base", "core/arch", "core/pack", "core/tokenizer"}},
    {"runtime", kCore},
    {"model", kCore},
    {"quantize", with(kCore, {"model"})},
    {"prune", with(kCore, {"model"})},
    {"distill", with(kCore, {"model"})},
    {"export", kCore},
    {"eval", with(kCore, {"model", "runtime"})},
    {"recipes", with(kCore, {"model", "runtime", "quantize", "prune", "distill", "export", "eval"})},
    {"cli", with(kCore, {"recipes"})},
};
const Names kTorch{"model", "quantize", "prune", "distill", "eval"};
// Torch-free programs include these: no Torch in them.
const Names kTorchFreeHeaders{"quantize/quantize.h", "prune/prune.h", "distill/distill.h", "eval/logits_source.h",
                              "eval/perplexity.h"};

bool allowed(const std::string& from, const std::string& to) {
  return from == to || !kAllowed.contains(from) || !kAllowed.contains(to) || kAllowed.at(from).contains(to);
}

// "core/arch/family.h" -> "core/arch", "eval/perplexity.h" -> "eval".
std::string folder_of(const std::string& path) {
  const size_t slash = path.find('/');
  return path.substr(0, path.starts_with("core/") ? path.find('/', slash + 1) : slash);
}

struct Include {
  std::string file, target;
};

std::vector<Include> read_includes() {
  std::vector<Include> includes;
  for (const auto& [folder, uses] : kAllowed)
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc" && extension != ".cu") continue;
      std::ifstream in(entry.path());
      for (std::string line; std::getline(in, line);) {
        const size_t open = line.find_first_of("\"<"), close = line.find_first_of("\">", open + 1);
        if (line.starts_with("#include") && close != std::string::npos)
          includes.push_back({fs::relative(entry.path(), kRoot), line.substr(open + 1, close - open - 1)});
      }
    }
  return includes;
}

bool is_torch(const std::string& header) {
  return std::ranges::any_of(std::vector{"ATen/", "torch/", "c10/"},
                             [&](const char* prefix) { return header.starts_with(prefix); });
}

TEST(Layering, IncludesPointOneWay) {
  const auto includes = read_includes();
  ASSERT_GT(includes.size(), 100u) << "the sources were not found";
  for (const Include& include : includes)
    EXPECT_TRUE(allowed(folder_of(include.file), folder_of(include.target)))
        << include.file << " includes " << include.target;
}

TEST(Layering, LibTorchStaysWhereItBelongs) {
  for (const Include& include : read_includes()) {
    if (!is_torch(include.target)) continue;
    EXPECT_TRUE(kTorch.contains(folder_of(include.file))) << include.file << " includes " << include.target;
    EXPECT_FALSE(kTorchFreeHeaders.contains(include.file)) << include.file << " includes " << include.target;
  }
}

// Words of a CMake file, parentheses as words of their own.
std::vector<std::string> words_of(const fs::path& file) {
  std::ifstream in(file);
  std::string text((std::istreambuf_iterator<char>(in)), {});
  for (size_t at = 0; (at = text.find_first_of("()", at)) != std::string::npos; at += 3)
    text.replace(at, 1, std::string(" ") + text[at] + " ");
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), {}};
}

// The folder of a CMake target: core_base -> core/base, quantize_solvers -> quantize.
std::string folder_of_target(const std::string& target) {
  if (target.starts_with("core_")) return "core/" + target.substr(5);
  return target.substr(0, target.find('_'));
}

// Calls visit(target, dependency) for every entry of a DEPS list in `file`.
template <typename Visit>
void for_each_dependency(const fs::path& file, Visit visit) {
  std::string target, previous, list;
  for (const std::string& word : words_of(file)) {
    if (previous == "NAME") target = word;
    if (word == ")") target.clear();
    if (std::ranges::all_of(word, [](char c) { return (c >= 'A' && c <= 'Z') || c == '_'; }))
      list = word;
    else if (!target.empty() && (list == "DEPS" || list == "PRIVATE_DEPS"))
      visit(target, word);
    previous = word;
  }
}

TEST(Layering, LinkListsPointOneWay) {
  std::vector<fs::path> files{kRoot / "core/CMakeLists.txt"};
  for (const auto& [folder, uses] : kAllowed) files.push_back(kRoot / folder / "CMakeLists.txt");
  int checked = 0;
  for (const fs::path& file : files)
    for_each_dependency(file, [&](const std::string& target, const std::string& dependency) {
      ++checked;
      EXPECT_TRUE(allowed(folder_of_target(target), folder_of_target(dependency)))
          << file << ": " << target << " links " << dependency;
    });
  EXPECT_GT(checked, 3);
}

}  // namespace
