// Every format of the table: an export that is interrupted or runs out of disk leaves nothing under the asked name, the
// next one succeeds, and the same model gives the same bytes wherever and whenever it is written.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>

#include "core/base/digest.h"
#include "core/base/error.h"
#include "core/base/files.h"
#include "export/exporter.h"
#include "export/verifier.h"
#include "tests/export/quantized_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TempDir;
using testing::TinyModel;

ThreadPool& pool() {
  static ThreadPool threads(3);
  return threads;
}

// As transformers saves what it has loaded from a directory: the configuration says which one.
std::unique_ptr<ModelSource> source_in(const fs::path& directory) {
  TinyModel shape;
  shape.ffn_size = 128;
  shape.extra = {{"_name_or_path", directory.string()}};
  return testing::quantized_model(directory, shape, "int4-g32-sym");
}

// As the command line does it: under a temporary name, renamed when complete.
void export_staged(const ModelSource& source, const fs::path& path, const ExportFormat& format, ProgressSink& sink,
                   uint64_t max_shard_bytes = 0) {
  Context context{pool(), sink};
  const auto kind = format.directory ? StagedOutput::Kind::kDirectory : StagedOutput::Kind::kFile;
  StagedOutput output(path, kind, false);
  const ExportOptions options{.format = std::string(format.name), .type = {}, .max_shard_bytes = max_shard_bytes};
  export_model(source, output.staging(), options, context);
  output.commit();
}

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.push_back(entry.path().filename());
  return names;
}

template <typename Body>
void for_formats(const Body& body) {
  for (const ExportFormat& format : export_formats()) {
    SCOPED_TRACE(format.name);
    body(format);
  }
}

// A file of this process cannot grow beyond `bytes` while this lives: what a full disk looks like.
class SmallDisk {
 public:
  explicit SmallDisk(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit small{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
  }
  ~SmallDisk() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int);
};

// The user asks to stop at the given tensor.
class StopAt : public ProgressSink {
 public:
  explicit StopAt(int64_t tensor) : tensor_(tensor) {}
  void update(int64_t done, std::string_view) override {
    if (done == tensor_) throw Error(ErrorKind::kInterrupted, "stopped");
  }

 private:
  int64_t tensor_;
};

void expect_next_succeeds(const ModelSource& source, const fs::path& directory, const ExportFormat& format) {
  ProgressSink silent;
  EXPECT_THAT(names_in(directory), IsEmpty());
  export_staged(source, directory / "artifact", format, silent);
  Context context{pool(), silent};
  EXPECT_TRUE(verify_artifact(directory / "artifact", source, context).equal());
  EXPECT_THAT(names_in(directory), ::testing::ElementsAre("artifact"));
}

TEST(Atomic, OutOfDisk) {
  TempDir dir;
  const auto source = source_in(dir.path() / "model");
  for_formats([&](const ExportFormat& format) {
    const fs::path directory = dir.path() / format.name;
    fs::create_directories(directory);
    for (const rlim_t bytes : {1000, 40000}) {
      const SmallDisk disk(bytes);
      ProgressSink silent;
      try {
        export_staged(*source, directory / "artifact", format, silent);
        ADD_FAILURE() << "it fits into " << bytes << " bytes";
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), HasSubstr("File too large"));
      }
      EXPECT_THAT(names_in(directory), IsEmpty());
    }
    expect_next_succeeds(*source, directory, format);
  });
}

// Where each file is complete, and fails, while the next matrix is packed.
TEST(Atomic, OutOfDiskBehind) {
  TempDir dir;
  const auto source = source_in(dir.path() / "model");
  for_formats([&](const ExportFormat& format) {
    if (!format.writes_behind) return;
    const fs::path directory = dir.path() / format.name;
    fs::create_directories(directory);
    try {
      const SmallDisk disk(3000);
      ProgressSink silent;
      export_staged(*source, directory / "artifact", format, silent, /*max_shard_bytes=*/1000);
      ADD_FAILURE() << "it fits";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("File too large"));
    }
    expect_next_succeeds(*source, directory, format);
  });
}

TEST(Atomic, Interrupted) {
  TempDir dir;
  const auto source = source_in(dir.path() / "model");
  for_formats([&](const ExportFormat& format) {
    const fs::path directory = dir.path() / format.name;
    fs::create_directories(directory);
    for (const int64_t tensor : {int64_t{1}, int64_t{7}, static_cast<int64_t>(source->tensors().size())}) {
      StopAt stop(tensor);
      EXPECT_THROW(export_staged(*source, directory / "artifact", format, stop), Error);
      EXPECT_THAT(names_in(directory), IsEmpty());
    }
    expect_next_succeeds(*source, directory, format);
  });
}

std::string all_bytes(const fs::path& path) {
  if (!fs::is_directory(path)) return read_text_file(path);
  std::string bytes;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) bytes += read_text_file(entry.path());
  return bytes;
}

TEST(Reproducible, SameBytesAndNoPlaces) {
  TempDir dir;
  const auto first = source_in(dir.path() / "one"), second = source_in(dir.path() / "another");
  for_formats([&](const ExportFormat& format) {
    ProgressSink silent;
    const fs::path a = dir.path() / "a" / format.name, b = dir.path() / "b" / "deeper" / format.name;
    export_staged(*first, a, format, silent);
    export_staged(*second, b, format, silent);
    EXPECT_EQ(digest_of_path(a), digest_of_path(b));
    EXPECT_EQ(all_bytes(a).find(dir.path().string()), std::string::npos) << "it holds the path of its model";
  });
}

}  // namespace
}  // namespace retort
