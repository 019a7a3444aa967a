// Matrices of several runs of rows, the last one short: every way in which a writer joins runs gives the bytes of the
// whole matrix, with any number of threads. Other tests have matrices of one run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "core/base/digest.h"
#include "core/base/error.h"
#include "core/pack/packed_format.h"
#include "export/exporter.h"
#include "export/tensors.h"
#include "export/verifier.h"
#include "tests/export/quantized_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;
using testing::TinyModel;

// A run has 512 rows of up_proj [1056, 512] and 224 of down_proj [512, 1056] (192 where runs are joined); heads of 32
// rows are permuted in GGUF.
TinyModel long_shape() {
  TinyModel model;
  model.hidden_size = 512;
  model.ffn_size = 1056;
  model.heads = 33;
  model.kv_heads = 11;
  model.head_dim = 32;
  model.layers = 1;
  return model;
}

struct Case {
  const char *format, *scheme, *operators = "contrib";
};

class Runs : public ::testing::TestWithParam<Case> {};

TEST_P(Runs, GiveTheSameBytesWithAnyNumberOfThreads) {
  TempDir dir;
  const auto source = testing::quantized_model(dir.path() / "model", long_shape(), GetParam().scheme);
  ProgressSink silent;
  std::string first_digest;
  for (const int count : {1, 3}) {
    ThreadPool threads(count);
    Context context{threads, silent};
    const fs::path path = dir.path() / std::to_string(count);
    if (export_format(GetParam().format).directory) fs::create_directory(path);
    const ExportOptions options{.format = GetParam().format, .type = {}, .operators = GetParam().operators};
    EXPECT_EQ(export_model(*source, path, options, context).quantized, 7);
    if (first_digest.empty()) {
      first_digest = digest_of_path(path);
      const VerifyResult result = verify_artifact(path, *source, context);
      EXPECT_TRUE(result.equal()) << ::testing::PrintToString(result.differences);
    }
    EXPECT_EQ(digest_of_path(path), first_digest);
  }
}

INSTANTIATE_TEST_SUITE_P(Export, Runs,
                         ::testing::Values(Case{"gguf", "q4_0"}, Case{"gguf", "int3-g32-asym"},
                                           Case{"onnx", "int4-g32-asym"}, Case{"onnx", "int4-g32-asym", "standard"},
                                           Case{"gptq", "int4-g32-sym"}, Case{"gptq", "int3-g32-asym"},
                                           Case{"awq", "int4-g32-asym"}, Case{"compressed-tensors", "int3-g32-asym"},
                                           Case{"mlx", "int4-g32-asym"}),
                         [](const auto& info) {
                           std::string name =
                               std::string(info.param.format) + "_" + info.param.scheme + "_" + info.param.operators;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(PackRuns, EndWithTheFirstThatFails) {
  constexpr int64_t kRows = 64, kRuns = 200, kCols = 64;
  for (const int row_axis : {0, 1}) {
    ThreadPool threads(3);
    std::atomic<int> made = 0;
    const auto make = [&](int64_t first, int64_t count) -> std::optional<QuantizedMatrix> {
      ++made;
      if (first == 0) fail("test", "rows", "they are damaged");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return make_quantized(parse_scheme("int4-g32-sym"), count, kCols);
    };
    const PartSink sink{[](const PackedPart&) {}, [](std::span<const std::byte>) {}};
    EXPECT_THROW(pack_runs({kRows * kRuns, kCols, kRows, make}, packed_format(row_axis == 0 ? "mlx" : "gptq"), row_axis,
                           sink, threads),
                 Error);
    EXPECT_LT(made, kRuns / 2) << row_axis;
  }
}

struct Layout {
  const char *format, *scheme;
  int row_axis;
};

class RunsOf : public ::testing::TestWithParam<Layout> {};

TEST_P(RunsOf, AreThePartsOfTheWholeMatrix) {
  TempDir dir;
  const auto source = testing::quantized_model(dir.path(), long_shape(), GetParam().scheme);
  const PackedFormat& format = packed_format(GetParam().format);
  for (const char* name : {"model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"}) {
    const ModelTensor& tensor = source->at(name);
    const std::vector<PackedPart> whole = format.pack(source->read_quantized(tensor));
    for (const int count : {1, 3}) {
      ThreadPool threads(count);
      std::atomic<int> packed = 0;
      const auto restate = [&](QuantizedMatrix rows) {
        ++packed;
        return rows;
      };
      std::vector<PackedPart> joined;
      const auto begin = [&](const PackedPart& part) { joined.push_back({part.name, part.dtype, part.shape, {}}); };
      const auto append = [&](std::span<const std::byte> bytes) {
        joined.back().bytes.insert(joined.back().bytes.end(), bytes.begin(), bytes.end());
      };
      stream_packed(*source, tensor,
                    {.format = format, .multiple = 32, .row_axis = GetParam().row_axis, .restate = restate},
                    {begin, append}, threads);
      EXPECT_EQ(packed, 3) << "runs";
      ASSERT_EQ(joined.size(), whole.size());
      for (size_t i = 0; i < whole.size(); ++i) {
        EXPECT_EQ(joined[i].name, whole[i].name);
        EXPECT_EQ(joined[i].shape, whole[i].shape) << whole[i].name;
        EXPECT_TRUE(joined[i].bytes == whole[i].bytes) << whole[i].name;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Export, RunsOf,
                         ::testing::Values(Layout{"gptq", "int4-g32-sym", 1}, Layout{"gptq", "int3-g32-sym", 1},
                                           Layout{"gptq_v2", "int3-g32-asym", 1}, Layout{"awq", "int4-g32-asym", 1},
                                           Layout{"mlx", "int3-g32-asym", 0}, Layout{"matmulnbits", "int4-g32-asym", 0},
                                           Layout{"q4_0", "q4_0", 0}, Layout{"compressed-tensors", "int4-g32-sym", 0},
                                           Layout{"compressed-tensors", "int3-g32-asym", 0}),
                         [](const auto& info) {
                           std::string name = std::string(info.param.format) + "_" + info.param.scheme;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace retort
