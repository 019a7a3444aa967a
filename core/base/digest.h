// Content digests (XXH3, 128 bits). They identify inputs and artifacts; they are not a defence against forgery.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace retort {

class Digest {
 public:
  Digest();
  ~Digest();
  Digest(Digest&&) noexcept;
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text);
  std::string hex() const;  // 32 hexadecimal digits

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string digest_of(std::string_view text);
// Of a file's bytes, or of the names and bytes of all files below a directory (in the order of their names).
std::string digest_of_path(const std::filesystem::path& path);

}  // namespace retort
