#include "core/base/files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/json.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

[[noreturn]] void fail_with(int error, const char* operation, const fs::path& path) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  fail(operation, path.string(), std::strerror(error), full ? "Make room, and give the same command again" : "");
}

[[noreturn]] void fail_errno(const char* operation, const fs::path& path) { fail_with(errno, operation, path); }

std::string read_jsonl_texts(const fs::path& path) {
  std::istringstream lines(read_text_file(path));
  std::string line, joined;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.empty()) continue;
    const std::string label = path.string() + " line " + std::to_string(number);
    if (!joined.empty()) joined += "\n\n";
    joined += json_required<std::string>(parse_json(line, label), "text", label);
  }
  return joined;
}

std::string read_directory_texts(const fs::path& path) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(path)) {
    const fs::path name = entry.path().filename();
    const bool about = name == "README.md" || name == "PROVENANCE.txt" || name == "FILES.txt";
    if (!about && (name.extension() == ".txt" || name.extension() == ".md")) files.push_back(entry.path());
  }
  if (files.empty()) fail("read text", path.string(), "the directory holds no .txt or .md file");
  std::sort(files.begin(), files.end());
  std::string joined;
  for (const fs::path& file : files) joined += (joined.empty() ? "" : "\n\n") + read_text_file(file);
  return joined;
}

}  // namespace

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail_errno("open", path);
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    fail("open", path.string(), "not a regular file");
  }
  size_ = static_cast<size_t>(info.st_size);
  void* mapped = size_ == 0 ? nullptr : ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
  ::close(fd);
  if (mapped == MAP_FAILED) fail_errno("map", path);
  data_ = static_cast<const std::byte*>(mapped);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release() const {
  if (data_ != nullptr) ::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
}

bool ReadCount::add(uint64_t bytes) {
  constexpr uint64_t kStep = uint64_t{8} << 20, kAround = uint64_t{64} << 10;  // the kernel maps neighbours too
  const uint64_t before = bytes_.fetch_add(bytes + kAround);
  return before / kStep != (before + bytes + kAround) / kStep;
}

std::string read_text_file(const fs::path& path) {
  const MappedFile file(path);
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

std::string read_corpus(const fs::path& path) {
  if (fs::is_directory(path)) return read_directory_texts(path);
  if (path.extension() == ".jsonl") return read_jsonl_texts(path);
  if (path.extension() == ".xz") fail("read text", path.string(), "compressed text is not read", "Decompress it first");
  return read_text_file(path);
}

void write_text_file(const fs::path& path, std::string_view text) {
  fs::path temporary = path;
  temporary += ".partial";
  {
    OutputFile out(temporary);
    out.write(text);
    out.close();
  }
  fs::rename(temporary, path);
}

struct OutputFile::Impl {
  static constexpr size_t kBuffer = size_t{64} << 10;  // pieces of this size and more go past the buffer

  explicit Impl(const fs::path& file_path)
      : path(file_path), file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
    if (file < 0) fail_errno("write", path);
  }
  ~Impl() {
    if (file >= 0) ::close(file);
  }

  void append(std::span<const std::byte> bytes) {
    if (buffer.size() + bytes.size() > kBuffer) flush();
    if (bytes.size() >= kBuffer) return write_all(bytes);
    buffer.insert(buffer.end(), bytes.begin(), bytes.end());
  }

  void flush() {
    write_all(buffer);
    buffer.clear();
  }

  void write_all(std::span<const std::byte> bytes) const {
    while (!bytes.empty()) {
      const ssize_t written = ::write(file, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail_errno("write", path);
      bytes = bytes.subspan(static_cast<size_t>(written));
    }
  }

  void close() {
    flush();
    if (::close(std::exchange(file, -1)) != 0) fail_errno("write", path);
  }

  fs::path path;
  int file;
  std::vector<std::byte> buffer;
};

OutputFile::OutputFile(const fs::path& path) : impl_(std::make_unique<Impl>(path)) {}

OutputFile::~OutputFile() = default;

void OutputFile::write(std::span<const std::byte> bytes) {
  impl_->append(bytes);
  position_ += bytes.size();
}

void OutputFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void OutputFile::pad_to(uint64_t alignment) {
  const std::vector<std::byte> zeros((alignment - position_ % alignment) % alignment);
  write(zeros);
}

void OutputFile::overwrite(uint64_t position, std::span<const std::byte> bytes) {
  if (position + bytes.size() > position_) fail("write", impl_->path.string(), "only written bytes can be replaced");
  impl_->flush();
  if (::lseek(impl_->file, static_cast<off_t>(position), SEEK_SET) < 0) fail_errno("write", impl_->path);
  impl_->write_all(bytes);
  if (::lseek(impl_->file, 0, SEEK_END) < 0) fail_errno("write", impl_->path);
}

void OutputFile::cut(uint64_t position) {
  if (position > position_) fail("write", impl_->path.string(), "only written bytes can be taken back");
  impl_->flush();
  if (::ftruncate(impl_->file, static_cast<off_t>(position)) != 0 ||
      ::lseek(impl_->file, static_cast<off_t>(position), SEEK_SET) < 0)
    fail_errno("write", impl_->path);
  position_ = position;
}

void OutputFile::close() { impl_->close(); }

namespace {

// Held while a result is built: two runs with the same output would take each other's files.
int lock_output(const fs::path& lock, const fs::path& target) {
  const int fd = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) fail_errno("output", lock);
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  ::close(fd);
  fail("output", target.string(), "another run is writing it", "Wait for it, or give another --output");
}

// Puts `made` in the place of `target`, which stands until then; what it held is removed.
void replace_path(const fs::path& made, const fs::path& target) {
  if (::renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) {
    fs::remove_all(made);
    return;
  }
  fs::path old = made;  // a file system that cannot exchange two names
  old += ".old";
  fs::rename(target, old);
  try {
    fs::rename(made, target);
  } catch (const fs::filesystem_error&) {
    fs::rename(old, target);
    throw;
  }
  fs::remove_all(old);
}

// A device is never replaced, and neither is a link in place of what it leads to.
void refuse_existing(const fs::path& target, bool overwrite) {
  const fs::file_status found = fs::symlink_status(target);
  if (!fs::exists(found)) return;
  if (!overwrite) fail("output", target.string(), "it exists", "Give another --output, or --overwrite");
  if (fs::is_symlink(found))
    fail("output", target.string(), "it is a symbolic link", "Give the place that it leads to");
  if (!fs::is_regular_file(found) && !fs::is_directory(found))
    fail("output", target.string(), "it is neither a file nor a directory", "Give another --output");
}

}  // namespace

StagedOutput::StagedOutput(fs::path path, Kind kind, bool overwrite, bool resume)
    : target_(std::move(path)), overwrite_(overwrite) {
  if (!target_.has_filename()) target_ = target_.parent_path();
  if (!target_.has_filename()) fail_usage("output", target_.string(), "it names no file or directory");
  refuse_existing(target_, overwrite);
  if (target_.has_parent_path()) fs::create_directories(target_.parent_path());
  staging_ = target_.parent_path() / ("." + target_.filename().string() + ".partial");
  lock_ = staging_;
  lock_ += ".lock";
  lock_file_ = lock_output(lock_, target_);
  if (!resume) fs::remove_all(staging_);
  if (kind == Kind::kDirectory) fs::create_directories(staging_);
}

StagedOutput::~StagedOutput() {
  std::error_code ignored;
  if (!committed_ && !keep_) fs::remove_all(staging_, ignored);
  fs::remove(lock_, ignored);
  ::close(lock_file_);
}

void StagedOutput::commit() {
  refuse_existing(target_, overwrite_);
  if (fs::exists(target_))
    replace_path(staging_, target_);
  else
    fs::rename(staging_, target_);
  committed_ = true;
}

uint64_t bytes_below(const fs::path& path) {
  if (!fs::is_directory(path)) return fs::file_size(path);
  uint64_t total = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) total += entry.file_size();
  return total;
}

}  // namespace retort
