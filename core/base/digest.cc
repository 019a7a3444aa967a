#include "core/base/digest.h"

#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "core/base/files.h"

namespace fs = std::filesystem;

namespace retort {

struct Digest::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

Digest::Digest() : state_(std::make_unique<State>()) { XXH3_128bits_reset(state_->xxh); }
Digest::~Digest() = default;
Digest::Digest(Digest&&) noexcept = default;

void Digest::update(std::span<const std::byte> bytes) { XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size()); }
void Digest::update(std::string_view text) { update(std::as_bytes(std::span(text))); }

std::string Digest::hex() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_->xxh);
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(hash.high64),
                static_cast<unsigned long long>(hash.low64));
  return text;
}

std::string digest_of(std::string_view text) {
  Digest digest;
  digest.update(text);
  return digest.hex();
}

namespace {
constexpr size_t kRun = size_t{16} << 20;  // bytes of a file that are in memory at a time
}

std::string digest_of_path(const fs::path& path) {
  Digest digest;
  if (!fs::is_directory(path)) {
    const MappedFile file(path);
    for (size_t at = 0; at < file.bytes().size(); at += kRun) {
      digest.update(file.bytes().subspan(at, std::min(kRun, file.bytes().size() - at)));
      file.release();
    }
    return digest.hex();
  }
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) digest.update(fs::relative(file, path).string() + '\0' + digest_of_path(file));
  return digest.hex();
}

}  // namespace retort
