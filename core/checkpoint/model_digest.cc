#include "core/checkpoint/model_digest.h"

#include <algorithm>
#include <array>
#include <vector>

#include "core/base/digest.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr std::array<std::string_view, 4> kWeights{".safetensors", ".bin", ".gguf", ".h5"};

bool is_of_model(const fs::directory_entry& entry) {
  const std::string extension = entry.path().extension().string();
  return entry.is_regular_file() &&
         (entry.path().filename() == "config.json" || std::ranges::find(kWeights, extension) != kWeights.end());
}

}  // namespace

std::string digest_of_model(const fs::path& path) {
  if (!fs::is_directory(path)) return digest_of_path(path);
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(path))
    if (is_of_model(entry)) files.push_back(entry.path());
  std::ranges::sort(files);
  Digest digest;
  for (const fs::path& file : files) digest.update(file.filename().string() + "\n" + digest_of_path(file) + "\n");
  return digest.hex();
}

}  // namespace retort
