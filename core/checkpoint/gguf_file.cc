// GGUF models in one file or several (llama.cpp, src/llama-model-loader.cpp: "split.no", "split.count").
#include <algorithm>
#include <cstdio>
#include <unordered_set>

#include "core/base/error.h"
#include "core/checkpoint/gguf.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr int64_t kMaxFiles = 9999;

int64_t split_number(const GgufHeader& header, const char* key) { return header.integer(key).value_or(0); }

// NAME of NAME-00001-of-00003.gguf.
std::string name_of_first(const fs::path& path, int64_t count) {
  const std::string file = path.filename().string(), ending = gguf_file_name("", 0, static_cast<size_t>(count));
  if (!file.ends_with(ending))
    fail("gguf", path.string(), "the first of " + std::to_string(count) + " files does not end in " + ending,
         "Give the files the names that llama-gguf-split gave them");
  return file.substr(0, file.size() - ending.size());
}

}  // namespace

std::string gguf_file_name(const std::string& name, size_t index, size_t count) {
  if (count == 1) return name + ".gguf";
  char part[40];
  std::snprintf(part, sizeof part, "-%05zu-of-%05zu.gguf", index + 1, count);
  return name + part;
}

GgufFile::GgufFile(const fs::path& path) {
  files_.push_back(std::make_unique<MappedFile>(path));
  header_ = parse_gguf(files_[0]->bytes(), path.string());
  const int64_t count = split_number(header_, "split.count");
  if (count <= 1) return;
  if (count > kMaxFiles) fail("gguf", path.string(), "split.count is " + std::to_string(count) + ", above 9999");
  if (split_number(header_, "split.no") != 0)
    fail("gguf", path.string(), "it is not the first file of the model", "Give the file that ends in -00001-of-...");
  open_siblings(path, count);
}

void GgufFile::count_read(uint64_t bytes) const {
  if (!reads_.add(bytes)) return;
  for (const auto& file : files_) file->release();
}

void GgufFile::open_siblings(const fs::path& path, int64_t count) {
  const std::string name = name_of_first(path, count);
  for (size_t i = 1; i < static_cast<size_t>(count); ++i) {
    const fs::path next = path.parent_path() / gguf_file_name(name, i, static_cast<size_t>(count));
    if (!fs::exists(next)) fail("gguf", next.string(), "this file of the split model is missing");
    files_.push_back(std::make_unique<MappedFile>(next));
    GgufHeader header = parse_gguf(files_[i]->bytes(), next.string());
    if (split_number(header, "split.no") != static_cast<int64_t>(i) || split_number(header, "split.count") != count)
      fail("gguf", next.string(), "it belongs to another split model, or to another place in this one");
    header_.behind += header.behind;
    for (GgufTensorInfo& info : header.tensors) {
      info.file = i;
      header_.tensors.push_back(std::move(info));
    }
  }
  std::unordered_set<std::string_view> names;
  for (const GgufTensorInfo& info : header_.tensors)
    if (!names.insert(info.name).second)
      fail("gguf", path.string(), "the tensor '" + info.name + "' is in two files of the split model");
  const auto total = header_.integer("split.tensors.count");
  if (total && *total != static_cast<int64_t>(names.size()))
    fail("gguf", path.string(),
         "the files have " + std::to_string(names.size()) + " tensors, and the first one says " +
             std::to_string(*total));
}

fs::path gguf_in_directory(const fs::path& directory) {
  if (!fs::is_directory(directory) || fs::exists(directory / "config.json")) return {};
  std::vector<fs::path> found;
  bool parts = false;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    const size_t part = name.rfind("-of-");
    const bool later = part != std::string::npos && part >= 6 && name.substr(part - 6, 6) != "-00001" &&
                       name.size() == part + std::string_view("-of-00001.gguf").size();
    if (name.ends_with(".gguf") && !later) found.push_back(entry.path());
    parts = parts || (name.ends_with(".gguf") && later);
  }
  if (found.empty() && parts) fail("gguf", directory.string(), "the first file of the split model is missing");
  if (found.size() > 1)
    fail("gguf", directory.string(), "it holds " + std::to_string(found.size()) + " GGUF models",
         "Give the path of one of them");
  return found.empty() ? fs::path() : found[0];
}

}  // namespace retort
