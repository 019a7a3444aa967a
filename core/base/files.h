// Files: memory-mapped reading, and output that appears whole or not at all.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace retort {

// A read-only view of a whole file, valid while the object lives. An empty file gives an empty span.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }
  // Drops the file's pages from this process; they are read again when touched.
  void release() const;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Counts what is read of mapped files, whose pages are dropped from time to time so that a process does not come to
// hold all that it ever read. Not at every read, since each time stops all threads.
class ReadCount {
 public:
  // Whether the pages are due. Thread-safe.
  bool add(uint64_t bytes);

 private:
  std::atomic<uint64_t> bytes_ = 0;
};

std::string read_text_file(const std::filesystem::path& path);

// A text to score, to calibrate or to train on. A file is taken as it is; a directory gives its *.txt and *.md
// files in the order of their names, joined by blank lines; a `.jsonl` file gives the value of "text" of every
// line, joined by blank lines; a `.xz` file is not read (decompress it first).
std::string read_corpus(const std::filesystem::path& path);

// Writes `text` under a temporary name beside `path` and renames it.
void write_text_file(const std::filesystem::path& path, std::string_view text);

// Buffered sequential output. A short write (a full disk) is an Error naming the file, thrown at the latest by close().
class OutputFile {
 public:
  explicit OutputFile(const std::filesystem::path& path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void pad_to(uint64_t alignment);  // zero bytes up to a multiple of `alignment`
  // Replaces bytes that were already written; writing goes on at the end.
  void overwrite(uint64_t position, std::span<const std::byte> bytes);
  // Takes back all that was written from `position` on.
  void cut(uint64_t position);
  uint64_t position() const { return position_; }
  void close();  // flushes; errors are thrown here, not in the destructor

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  uint64_t position_ = 0;
};

// The result of a command, a file or a directory, built under "<dir>/.<name>.partial" and renamed by commit().
// Without commit() the destructor removes the partial result, unless keep() was called.
class StagedOutput {
 public:
  enum class Kind { kFile, kDirectory };
  // An existing `path` is an error unless `overwrite`; it stays in place until commit().
  // A second one for the same `path`, in any process, is an error while the first lives.
  // With `resume`, what an interrupted earlier run left in the partial directory is kept for reading.
  StagedOutput(std::filesystem::path path, Kind kind, bool overwrite, bool resume = false);
  ~StagedOutput();
  StagedOutput(const StagedOutput&) = delete;
  StagedOutput& operator=(const StagedOutput&) = delete;

  const std::filesystem::path& staging() const { return staging_; }  // write here
  const std::filesystem::path& target() const { return target_; }
  void keep() { keep_ = true; }  // leave the partial result for a later resume
  void commit();

 private:
  std::filesystem::path target_, staging_, lock_;
  int lock_file_ = -1;
  bool overwrite_, keep_ = false, committed_ = false;
};

// Of the file, or of all regular files below the directory.
uint64_t bytes_below(const std::filesystem::path& path);

}  // namespace retort
