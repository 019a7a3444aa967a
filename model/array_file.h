// Arrays in an HDF5 file: what a long calculation keeps on disk to continue from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace retort {

// Written under a temporary name and renamed by commit(): a file that is there is whole. Errors name the file.
class ArrayWriter {
 public:
  explicit ArrayWriter(std::filesystem::path path);
  ~ArrayWriter();
  void write(const std::string& name, const std::vector<int64_t>& shape, std::span<const float> values);
  void write(const std::string& name, std::span<const std::byte> bytes);
  void write(const std::string& name, const std::string& text);
  void commit();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class ArrayReader {
 public:
  explicit ArrayReader(const std::filesystem::path& path);
  ~ArrayReader();
  bool has(const std::string& name) const;
  struct Floats {
    std::vector<int64_t> shape;
    std::vector<float> values;
  };
  Floats read_floats(const std::string& name) const;
  std::vector<std::byte> read_bytes(const std::string& name) const;
  std::string read_text(const std::string& name) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace retort
