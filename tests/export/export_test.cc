// What export refuses, what it records, and that verify finds every kind of damage. The formats themselves are held
// to the programs that load them in tests/clients.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/base/digest.h"
#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/gguf.h"
#include "core/checkpoint/safetensors.h"
#include "core/pack/block_types.h"
#include "export/exporter.h"
#include "export/verifier.h"
#include "export/verify/onnx_wire.h"
#include "tests/export/quantized_model.h"
#include "tests/support/error_of.h"
#include "tests/support/memory_source.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::quantized_model;
using ::testing::SizeIs;
using testing::TempDir;
using testing::TinyModel;

ThreadPool& pool() {
  static ThreadPool threads(1);
  return threads;
}
ProgressSink g_silent;
Context g_context{pool(), g_silent};

struct Exported {
  fs::path path;
  ExportSummary summary;
};

Exported export_to(const fs::path& path, const ModelSource& source, ExportOptions options) {
  if (export_format(options.format).directory) fs::create_directories(path);
  return {path, export_model(source, path, options, g_context)};
}

TinyModel shape() {
  TinyModel model;
  model.hidden_size = 64;
  model.ffn_size = 128;
  model.heads = 4;
  model.kv_heads = 2;
  model.head_dim = 16;
  model.layers = 2;
  return model;
}

// Rows of whole super-blocks.
TinyModel wide_shape() {
  TinyModel model = shape();
  model.hidden_size = 256;
  model.ffn_size = 512;
  model.head_dim = 64;
  return model;
}

TEST(ExportFormats, NamesTheNearestThatIsThere) {
  EXPECT_THAT(error_of([] { export_format("ggfu"); }), HasSubstr("gguf"));
  EXPECT_THAT(error_of([] { export_format("compressed-tensor"); }), HasSubstr("compressed-tensors"));
}

struct Case {
  const char *format, *scheme;
  bool everything = false;
  const char* operators = "contrib";
};

class HoldsExactly : public ::testing::TestWithParam<Case> {};

TEST_P(HoldsExactly, AndVerifyProvesIt) {
  const auto [format, scheme, everything, operators] = GetParam();
  for (const char* family : {"llama", "qwen2", "qwen3"}) {
    TempDir dir;
    TinyModel model = parse_scheme(scheme).is_super_block() ? wide_shape() : shape();
    model.model_type = family;
    const auto source = quantized_model(dir.path(), model, scheme, everything);
    const Exported made =
        export_to(dir.path() / "artifact", *source, {.format = format, .type = {}, .operators = operators});
    const VerifyResult result = verify_artifact(made.path, *source, g_context);
    EXPECT_EQ(result.tensors_compared, static_cast<int64_t>(source->tensors().size()));
    EXPECT_EQ(result.format, format);
    EXPECT_GT(made.summary.quantized, 0);
    EXPECT_THAT(made.summary.fallbacks, IsEmpty());
    EXPECT_TRUE(result.equal()) << ::testing::PrintToString(result.differences);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Export, HoldsExactly,
    ::testing::Values(
        Case{"gguf", "q4_0", true}, Case{"gguf", "q8_0", true}, Case{"gguf", "int4-g64-sym"},
        Case{"gguf", "int4-channel-sym"}, Case{"gguf", "int8-g32-sym"}, Case{"gguf", "int8-channel-sym"},
        Case{"gguf", "int3-g32-sym"}, Case{"gguf", "int3-g32-asym"}, Case{"gguf", "int2-g64-asym"},
        Case{"gguf", "int4-g32-asym"}, Case{"gguf", "q4_1", true}, Case{"gguf", "q5_0"}, Case{"gguf", "q5_1"},
        Case{"gguf", "iq4_nl"}, Case{"gguf", "q2_k"}, Case{"gguf", "q3_k"}, Case{"gguf", "q4_k", true},
        Case{"gguf", "q5_k"}, Case{"gguf", "q6_k", true}, Case{"gguf", "iq4_xs"}, Case{"onnx", "int4-g32-sym"},
        Case{"onnx", "int4-g16-asym", true}, Case{"onnx", "int8-channel-asym"}, Case{"onnx", "int3-g64-sym"},
        Case{"onnx", "int2-g32-asym", true}, Case{"onnx", "q8_0", true},
        Case{"onnx", "int4-g8-asym", false, "standard"}, Case{"onnx", "int4-g32-sym", true, "standard"},
        Case{"onnx", "int8-channel-asym", true, "standard"}, Case{"onnx", "int3-g64-sym", false, "standard"},
        Case{"onnx", "q8_0", true, "standard"}, Case{"gptq", "int4-g32-sym"}, Case{"gptq", "int4-g64-asym"},
        Case{"gptq", "int8-channel-sym"}, Case{"gptq", "int3-g32-asym"}, Case{"gptq", "int2-g16-sym"},
        Case{"awq", "int4-g32-sym"}, Case{"awq", "int4-g64-asym"}, Case{"awq", "int4-channel-sym"},
        Case{"awq", "int3-g32-sym"}, Case{"awq", "int2-g32-asym"}, Case{"compressed-tensors", "int4-g32-sym"},
        Case{"compressed-tensors", "int4-g16-asym"}, Case{"compressed-tensors", "int8-channel-asym"},
        Case{"compressed-tensors", "int8-g64-sym"}, Case{"compressed-tensors", "int3-channel-asym"},
        Case{"compressed-tensors", "int2-g64-sym"}, Case{"compressed-tensors", "q8_0"},
        Case{"mlx", "int4-g32-sym", true}, Case{"mlx", "int4-g64-asym", true}, Case{"mlx", "int4-channel-sym"},
        Case{"mlx", "int3-g32-asym"}, Case{"mlx", "int2-g32-sym"}, Case{"mlx", "q8_0", true}, Case{"mlx", "q4_0", true},
        Case{"mlx", "q4_1", true}, Case{"mlx", "q5_0", true}, Case{"mlx", "q5_1", true}, Case{"mlx", "q4_k", true},
        Case{"mlx", "q5_k", true}),
    [](const auto& info) {
      std::string name = std::string(info.param.format) + "_" + info.param.scheme;
      if (info.param.operators == std::string_view("standard")) name += "_standard";
      std::ranges::replace(name, '-', '_');
      return name;
    });

TEST(Export, KeepsActivationOrderInGptqOnly) {
  TempDir dir;
  const auto scatter = [](const std::string& name, QuantizedMatrix& matrix) {
    if (name.find("o_proj") != std::string::npos) testing::scatter_groups(matrix);
  };
  const auto source = quantized_model(dir.path(), shape(), "int4-g32-sym", false, scatter);
  const Exported made = export_to(dir.path() / "gptq", *source, {.format = "gptq", .type = {}});
  EXPECT_TRUE(verify_artifact(made.path, *source, g_context).equal());
  EXPECT_EQ(read_json_file(made.path / "quantize_config.json")["desc_act"], true);
  for (const char* format : {"gguf", "onnx", "awq", "compressed-tensors", "mlx"}) {
    const fs::path path = dir.path() / format;
    const std::string error = error_of([&] { export_to(path, *source, {.format = format, .type = {}}); });
    EXPECT_THAT(error, HasSubstr("model.layers.0.self_attn.o_proj.weight"));
    EXPECT_THAT(error, HasSubstr("--format gptq"));
    EXPECT_TRUE(!fs::exists(path) || fs::is_empty(path)) << "something was written";
  }
}

// Of q_proj of the first layer, 64 rows.
void keep_some_columns(const std::string& name, QuantizedMatrix& matrix) {
  if (name != "model.layers.0.self_attn.q_proj.weight") return;
  testing::Random random(3);
  std::vector<float> values(static_cast<size_t>(matrix.rows * matrix.cols));
  for (float& value : values) value = random.normal();
  testing::keep_columns(matrix, values, {1, 30, 63});
}

TEST(Export, RefusesColumnsIn16BitsAndNamesDenseHf) {
  TempDir dir;
  const auto source = quantized_model(dir.path(), shape(), "int4-g32-sym", false, keep_some_columns);
  for (const char* format : {"gguf", "onnx", "gptq", "awq", "compressed-tensors", "mlx"}) {
    const fs::path path = dir.path() / format;
    const std::string error = error_of([&] { export_to(path, *source, {.format = format, .type = {}}); });
    EXPECT_THAT(error, HasSubstr("model.layers.0.self_attn.q_proj.weight"));
    EXPECT_THAT(error, HasSubstr("columns kept in 16 bits have no place in " + std::string(format)));
    EXPECT_THAT(error, HasSubstr("Use --format hf, or --fallback f32"));
    EXPECT_TRUE(!fs::exists(path) || fs::is_empty(path)) << "something was written";
  }
  const Exported dense = export_to(dir.path() / "hf", *source, {.format = "hf", .type = {}});
  EXPECT_TRUE(verify_artifact(dense.path, *source, g_context).equal());
  const Exported fallen =
      export_to(dir.path() / "fallen", *source, {.format = "gptq", .type = {}, .fallback = DType::kF16});
  EXPECT_THAT(fallen.summary.fallbacks, SizeIs(1));
  EXPECT_TRUE(verify_artifact(fallen.path, *source, g_context).faithful());
}

// The same integers without the values are another model.
TEST(Verify, FindsColumnsIn16BitsThatWereLeftOut) {
  TempDir dir;
  const auto source = quantized_model(dir.path() / "a", shape(), "int4-g32-sym", false, keep_some_columns);
  const auto lost = quantized_model(dir.path() / "b", shape(), "int4-g32-sym", false,
                                    [](const std::string& name, QuantizedMatrix& matrix) {
                                      keep_some_columns(name, matrix);
                                      matrix.outlier_columns.clear();
                                      matrix.outliers.clear();
                                    });
  const Exported made = export_to(dir.path() / "gptq", *lost, {.format = "gptq", .type = {}});
  EXPECT_EQ(verify_artifact(made.path, *source, g_context).codes_different, 64 * 3);
}

// Loaders convert everything to the type that config.json names: it is one that keeps every number.
TEST(Export, NamesATypeThatKeepsTheScalesOfCompressedTensors) {
  for (const bool portable : {true, false}) {
    TempDir dir;
    TinyModel model = shape();
    model.dtype = DType::kBF16;
    const auto scales = [&](const std::string&, QuantizedMatrix& matrix) {
      for (float& scale : matrix.scales) scale = 0.5f;
      if (!portable) matrix.scales[1] = 1.0f + 0x1p-10f;
    };
    const auto source = quantized_model(dir.path(), model, "int4-g32-sym", false, scales);
    const Exported made = export_to(dir.path() / "ct", *source, {.format = "compressed-tensors", .type = {}});
    const Json config = read_json_file(made.path / "config.json");
    EXPECT_EQ(config["dtype"], portable ? "bfloat16" : "float32");
    EXPECT_FALSE(config.contains("torch_dtype"));
    EXPECT_TRUE(verify_artifact(made.path, *source, g_context).equal());
  }
}

TEST(Export, RefusesAsymmetricCodesInGgufAndNamesOnnx) {
  TempDir dir;
  const auto source = quantized_model(dir.path(), shape(), "int8-g32-asym");
  const std::string error =
      error_of([&] { export_to(dir.path() / "a.gguf", *source, {.format = "gguf", .type = {}}); });
  EXPECT_THAT(error, HasSubstr("model.layers.0.self_attn.q_proj.weight"));
  EXPECT_THAT(error, HasSubstr("zero points"));
  EXPECT_THAT(error, HasSubstr("--format onnx"));
  EXPECT_FALSE(fs::exists(dir.path() / "a.gguf"));
}

// Also where nothing of the model has a place: the first tensor that has none, and the format that takes them all.
TEST(Export, NamesTheTensorAndTheFormatForCodesOfOtherKinds) {
  for (const auto& [scheme, nearest] : {std::pair("nf4-g64", "Use --format hf, or"),
                                        {"q4_k", "Use --format gguf, or"},
                                        {"q6_k", "Use --format gguf, or"},
                                        {"iq4_nl", "Use --format gguf, or"}})
    for (const char* format : {"gptq", "awq", "compressed-tensors", "mlx"}) {
      if (std::string_view(scheme) == "q4_k" && std::string_view(format) == "mlx") continue;  // it has a place there
      SCOPED_TRACE(std::string(scheme) + " " + format);
      TempDir dir;
      const auto source = quantized_model(dir.path(), wide_shape(), scheme);
      const std::string error = error_of([&] { export_to(dir.path() / "a", *source, {.format = format, .type = {}}); });
      EXPECT_THAT(error, HasSubstr("model.layers.0.self_attn.q_proj.weight: " + std::string(format) + " cannot hold"));
      EXPECT_THAT(error, HasSubstr(nearest));
    }
}

TEST(Export, RefusesADenseModelWhereIntegersAreKept) {
  TempDir dir;
  quantized_model(dir.path(), shape(), "int4-g32-sym");
  const auto dense = open_model(dir.path() / "dense");
  for (const char* format : {"gptq", "awq", "compressed-tensors", "mlx"})
    EXPECT_THAT(error_of([&] { export_to(dir.path() / "a", *dense, {.format = format, .type = {}}); }),
                HasSubstr("no integer weights"))
        << format;
}

TEST(Export, FallsBackToF16WhenAskedAndSaysSoInside) {
  TempDir dir;
  TinyModel model = shape();
  model.ffn_size = 172;  // neither a block nor a word divides the rows of down_proj
  const auto source = quantized_model(dir.path(), model, "int4-channel-sym");
  for (const char* format : {"gguf", "gptq"}) {
    ExportOptions options{.format = format, .type = {}};
    EXPECT_THAT(error_of([&] { export_to(dir.path() / "x", *source, options); }), HasSubstr("Use --format onnx, or"));
    options.fallback = DType::kF16;
    const Exported made = export_to(dir.path() / format, *source, options);
    ASSERT_THAT(made.summary.fallbacks, ::testing::Not(IsEmpty()));
    const VerifyResult result = verify_artifact(made.path, *source, g_context);
    EXPECT_TRUE(result.faithful()) << ::testing::PrintToString(result.differences);
    EXPECT_TRUE(result.fell_back());
    EXPECT_FALSE(result.equal());
    EXPECT_GT(result.values_rounded, 0);
    EXPECT_EQ(result.tensors_rounded, static_cast<int64_t>(made.summary.fallbacks.size()));
    EXPECT_THAT(result.rounded, ::testing::Contains(HasSubstr("layers.1.mlp.down_proj.weight: ")));
    options.fallback = DType::kF32;
    const Exported exact = export_to(dir.path() / (std::string(format) + "-f32"), *source, options);
    EXPECT_TRUE(verify_artifact(exact.path, *source, g_context).equal());
  }
  const GgufFile file(dir.path() / "gguf");
  EXPECT_THAT(*file.header().strings("retort.fallbacks"), SizeIs(model.layers));
  const Json config = read_json_file(dir.path() / "gptq" / "quantize_config.json");
  EXPECT_TRUE(config["dynamic"].contains("-:^model\\.layers\\.1\\.mlp\\.down_proj$"));
  EXPECT_FALSE(config["meta"]["fallbacks"].empty());
}

// Nothing is left as integers then, as with a type that was asked for; the artifact says which of the two it is.
TEST(Export, KnowsAFallbackOfEveryMatrixFromATypeThatWasAskedFor) {
  TempDir dir;
  const auto source = quantized_model(dir.path(), shape(), "nf4-g64");
  for (const char* format : {"gguf", "onnx"}) {
    const Exported made =
        export_to(dir.path() / format, *source, {.format = format, .type = {}, .fallback = DType::kF16});
    EXPECT_EQ(made.summary.quantized, 0);
    const VerifyResult result = verify_artifact(made.path, *source, g_context);
    EXPECT_EQ(result.fallbacks_recorded, static_cast<int64_t>(made.summary.fallbacks.size()));
    EXPECT_TRUE(result.fell_back()) << format;
    const fs::path asked = dir.path() / (std::string(format) + "-asked");
    export_to(asked, *source, {.format = format, .type = DType::kF16});
    const VerifyResult typed = verify_artifact(asked, *source, g_context);
    EXPECT_GT(typed.integers_rounded, 0);
    EXPECT_EQ(typed.fallbacks_recorded, 0);
    EXPECT_FALSE(typed.fell_back()) << format;
    const fs::path exact = dir.path() / (std::string(format) + "-exact");
    export_to(exact, *source, {.format = format, .type = {}, .fallback = DType::kF32});
    EXPECT_FALSE(verify_artifact(exact, *source, g_context).fell_back()) << "no number is another";
  }
}

TEST(Export, RefusesValuesThatF16CannotHold) {
  TempDir dir;
  const auto large = [](const std::string& name, QuantizedMatrix& matrix) {
    if (name.find("up_proj") != std::string::npos) matrix.scales[3] = 60000;
  };
  const auto source = quantized_model(dir.path(), shape(), "int4-g32-sym", false, large);
  const std::string error =
      error_of([&] { export_to(dir.path() / "x", *source, {.format = "hf", .type = DType::kF16}); });
  EXPECT_THAT(error, HasSubstr("model.layers.0.mlp.up_proj.weight"));
  EXPECT_THAT(error, HasSubstr("too large for f16. Use --type bf16 or f32"));
}

// A format that takes no type has another remedy.
TEST(Export, RefusesAFallbackInF16ThatCannotHoldTheValues) {
  TempDir dir;
  const auto large = [](const std::string& name, QuantizedMatrix& matrix) {
    if (name.find("down_proj") != std::string::npos) matrix.scales[0] = 60000;
  };
  TinyModel model = shape();
  model.ffn_size = 172;
  const auto source = quantized_model(dir.path(), model, "int4-channel-sym", false, large);
  const ExportOptions options{.format = "gptq", .type = {}, .fallback = DType::kF16};
  EXPECT_THAT(error_of([&] { export_to(dir.path() / "x", *source, options); }),
              HasSubstr("too large for f16. Use --fallback f32"));
}

TEST(Export, RefusesALimitThatItCannotKeep) {
  TempDir dir;
  const auto source = quantized_model(dir.path(), shape(), "int4-g32-sym");
  Context context{pool(), g_silent};
  context.memory_limit = 1 << 20;
  EXPECT_THAT(error_of([&] { export_model(*source, dir.path() / "x", {.format = "gguf", .type = {}}, context); }),
              HasSubstr("above the limit of 1.0 MiB"));
  EXPECT_FALSE(fs::exists(dir.path() / "x"));
}

TEST(Export, WritesAGgufFileAgainWithTheSameBytes) {
  TempDir dir;
  TinyModel model = shape();
  model.extra = {{"rope_parameters",
                  {{"rope_type", "llama3"},
                   {"rope_theta", 10000.0},
                   {"factor", 8.0},
                   {"low_freq_factor", 1.0},
                   {"high_freq_factor", 4.0},
                   {"original_max_position_embeddings", 32}}}};
  const auto source = quantized_model(dir.path(), model, "q4_0", true);
  const Exported first = export_to(dir.path() / "first", *source, {.format = "gguf", .type = {}});
  const auto stored = open_model(first.path);
  const Exported second = export_to(dir.path() / "second", *stored, {.format = "gguf", .type = {}});
  EXPECT_EQ(digest_of_path(first.path), digest_of_path(second.path));
  EXPECT_TRUE(verify_artifact(second.path, *source, g_context).equal());
}

// What llama-quantize made, byte for byte, and the number that it gives the mix.
TEST(Export, WritesTheFilesOfLlamaQuantizeAgain) {
  const fs::path folder = RETORT_SOURCE_DIR "/../shared/data/quantized/gguf";
  if (!fs::exists(folder)) GTEST_SKIP() << "the data set is not beside the checkout: " << folder;
  for (const char* name : {"Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q6_K"}) {
    TempDir dir;
    const fs::path original = folder / ("books-5.8m-" + std::string(name) + ".gguf");
    const auto source = open_model(original);
    const Exported made = export_to(dir.path() / "again.gguf", *source, {.format = "gguf", .type = {}});
    const GgufFile theirs(original), ours(made.path);
    for (const GgufTensorInfo& info : theirs.header().tensors) {
      const GgufTensorInfo* again = ours.header().find_tensor(info.name);
      ASSERT_NE(again, nullptr) << info.name;
      EXPECT_EQ(again->type, info.type) << name << " " << info.name;
      EXPECT_TRUE(std::ranges::equal(ours.data(*again), theirs.data(info))) << name << " " << info.name;
    }
    EXPECT_EQ(ours.header().tensors.size(), theirs.header().tensors.size());
    EXPECT_EQ(ours.header().integer("general.file_type"), theirs.header().integer("general.file_type")) << name;
    EXPECT_TRUE(verify_artifact(made.path, *source, g_context).equal()) << name;
  }
}

TEST(Export, WritesDenseModelsInTheTypeAsked) {
  TempDir dir;
  const auto source = quantized_model(dir.path(), shape(), "int4-g32-sym");
  for (const char* format : {"gguf", "onnx", "hf"})
    for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
      const fs::path path = dir.path() / (std::string(format) + std::string(name_of(type)));
      const Exported made = export_to(path, *source, {.format = format, .type = type});
      EXPECT_EQ(made.summary.quantized, 0);
      const VerifyResult result = verify_artifact(path, *source, g_context);
      EXPECT_TRUE(result.faithful()) << format << ::testing::PrintToString(result.differences);
      EXPECT_EQ(result.equal(), type == DType::kF32) << format;
      EXPECT_FALSE(result.fell_back()) << "it was asked for";
    }
  EXPECT_EQ(read_json_file(dir.path() / "hfbf16" / "config.json")["dtype"], "bfloat16");
  EXPECT_FALSE(read_json_file(dir.path() / "hff32" / "config.json").contains("quantization_config"));
  EXPECT_THAT(error_of([&] { export_to(dir.path() / "x", *source, {.format = "gptq", .type = DType::kF16}); }),
              HasSubstr("no kinds"));
}

// Where the bytes of one tensor (or part) lie in the file of an artifact.
struct Place {
  fs::path file;
  uint64_t offset;
};

Place place_of(const std::string& format, const fs::path& path) {
  if (format == "gguf") {
    const GgufFile file(path);
    for (const GgufTensorInfo& info : file.header().tensors)
      if (info.name == "blk.1.ffn_up.weight") return {path, info.offset + 7};
  } else if (format == "onnx") {
    const std::string model = read_text_file(path / "model.onnx");
    const OnnxParts list = parse_onnx_parts(std::as_bytes(std::span(model)), "model.onnx");
    return {path / "model.onnx.data", list.initializers.at("model.layers.1.mlp.up_proj.weight.codes").offset + 7};
  } else {
    const SafetensorsFile file(path / "model.safetensors");
    for (const TensorInfo& info : file.tensors())
      if (info.name.ends_with("layers.1.mlp.up_proj.qweight") ||
          info.name.ends_with("layers.1.mlp.up_proj.weight_packed"))
        return {path / "model.safetensors", info.offset + 5};
  }
  return {};
}

void flip(const fs::path& path, uint64_t offset) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  const char byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(byte);
}

TEST(Verify, FindsOneFlippedByte) {
  for (const char* format : {"gguf", "onnx", "gptq", "compressed-tensors"}) {
    TempDir dir;
    const auto source = quantized_model(dir.path(), shape(), "int4-g32-sym");
    const Exported made = export_to(dir.path() / "artifact", *source, {.format = format, .type = {}});
    const Place place = place_of(format, made.path);
    flip(place.file, place.offset);
    const VerifyResult result = verify_artifact(made.path, *source, g_context);
    EXPECT_EQ(result.codes_different, 1) << format;
    EXPECT_EQ(result.scales_different + result.values_different, 0) << format;
    EXPECT_THAT(result.differences, SizeIs(1)) << format;
    EXPECT_FALSE(result.equal());
  }
}

// Nothing hides behind the last tensor, or between two of them.
TEST(Verify, FindsBytesThatBelongToNoTensor) {
  TempDir dir;
  const auto source = quantized_model(dir.path(), shape(), "int4-g32-sym");
  for (const auto& [format, file] : {std::pair("gguf", ""), {"onnx", "model.onnx.data"}}) {
    const Exported made = export_to(dir.path() / format, *source, {.format = format, .type = {}});
    EXPECT_EQ(verify_artifact(made.path, *source, g_context).bytes_unclaimed, 0) << format;
    std::ofstream(*file == 0 ? made.path : made.path / file, std::ios::app) << std::string(100, 'x');
    const VerifyResult result = verify_artifact(made.path, *source, g_context);
    EXPECT_EQ(result.bytes_unclaimed, 100) << format;
    EXPECT_THAT(result.differences, ::testing::ElementsAre(HasSubstr("100 bytes belong to no tensor"))) << format;
    EXPECT_FALSE(result.equal());
  }
  const Exported made = export_to(dir.path() / "gptq", *source, {.format = "gptq", .type = {}});
  std::ofstream(made.path / "model.safetensors", std::ios::app) << std::string(100, 'x');
  EXPECT_THAT(error_of([&] { verify_artifact(made.path, *source, g_context); }),
              HasSubstr("100 bytes at the end of the file belong to no tensor"));
}

// One block of each type: a bit of any of its bytes is a code, a scale or a minimum.
TEST(Verify, FindsADamagedByteAnywhereInABlock) {
  for (const BlockInfo& type : block_types()) {
    TempDir dir;
    const TinyModel model = type.elements == 256 ? wide_shape() : shape();
    const auto source = quantized_model(dir.path(), model, std::string(type.name));
    const Exported made = export_to(dir.path() / "artifact", *source, {.format = "gguf", .type = {}});
    const uint64_t first = place_of("gguf", made.path).offset - 7;
    for (int64_t byte = 0; byte < type.bytes; byte += type.bytes < 64 ? 3 : 23) {
      flip(made.path, first + static_cast<uint64_t>(byte));
      const VerifyResult result = verify_artifact(made.path, *source, g_context);
      EXPECT_GT(result.codes_different + result.scales_different, 0) << type.name << " byte " << byte;
      EXPECT_EQ(result.values_different, 0);
      flip(made.path, first + static_cast<uint64_t>(byte));
    }
  }
}

TEST(Verify, FindsScalesZerosAndValuesThatDiffer) {
  TempDir dir;
  const auto source = quantized_model(dir.path() / "a", shape(), "int4-g32-asym");
  const auto other = [](int kind) {
    return [kind](const std::string& name, QuantizedMatrix& matrix) {
      if (name.find("layers.1.mlp.down_proj") == std::string::npos) return;
      if (kind == 0) matrix.scales[5] *= 2;
      if (kind == 1) matrix.zeros[2] = static_cast<uint8_t>(matrix.zeros[2] ^ 1);
    };
  };
  for (const int kind : {0, 1})
    for (const char* format : {"onnx", "gptq", "compressed-tensors"}) {
      const fs::path place = dir.path() / (std::string(format) + std::to_string(kind));
      const auto changed = quantized_model(place, shape(), "int4-g32-asym", false, other(kind));
      const Exported made = export_to(place / "artifact", *changed, {.format = format, .type = {}});
      const VerifyResult result = verify_artifact(made.path, *source, g_context);
      EXPECT_EQ(result.scales_different, kind == 0 ? 1 : 0) << format;
      EXPECT_EQ(result.codes_different, kind == 0 ? 0 : 32) << format;
    }
  TinyModel seeded = shape();
  seeded.seed = 2;
  const auto reseeded = quantized_model(dir.path() / "b", seeded, "int4-g32-asym");
  const Exported made = export_to(dir.path() / "hf", *reseeded, {.format = "hf", .type = DType::kF32});
  EXPECT_GT(verify_artifact(made.path, *source, g_context).values_different, 0);
}

TEST(Verify, SaysWhichIntegersItComparedAsValues) {
  TempDir dir;
  const auto source = quantized_model(dir.path(), shape(), "int4-g32-sym");
  const VerifyResult integers =
      verify_artifact(export_to(dir.path() / "gptq", *source, {.format = "gptq", .type = {}}).path, *source, g_context);
  EXPECT_EQ(integers.tensors_as_integers, 14);
  EXPECT_THAT(integers.notes, IsEmpty());
  const VerifyResult values =
      verify_artifact(export_to(dir.path() / "hf", *source, {.format = "hf", .type = {}}).path, *source, g_context);
  EXPECT_EQ(values.tensors_as_integers, 0);
  EXPECT_THAT(values.notes, ::testing::ElementsAre(HasSubstr("14 matrices that are integers in the model")));
}

TEST(Verify, FindsAnotherTokenizerAndTemplate) {
  TempDir dir;
  const auto source = quantized_model(dir.path(), shape(), "int4-g32-sym");
  const Exported made = export_to(dir.path() / "artifact", *source, {.format = "gptq", .type = {}});
  write_text_file(made.path / "chat_template.jinja", "{{ messages }}");
  EXPECT_FALSE(verify_artifact(made.path, *source, g_context).template_equal);
  const std::string tokenizer = read_text_file(made.path / "tokenizer.json");
  write_text_file(made.path / "tokenizer.json", tokenizer + " ");
  EXPECT_FALSE(verify_artifact(made.path, *source, g_context).tokenizer_equal);
}

TEST(Verify, ComparesModelsWithoutATokenizer) {
  TempDir dir;
  quantized_model(dir.path(), shape(), "int4-g32-sym");
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) fs::remove(dir.path() / "quantized" / name);
  const auto source = open_model(dir.path() / "quantized");
  const Exported made = export_to(dir.path() / "onnx", *source, {.format = "onnx", .type = {}});
  EXPECT_TRUE(verify_artifact(made.path, *source, g_context).equal());
}

TEST(Verify, NamesATensorThatIsMissing) {
  TempDir dir;
  TinyModel deeper = shape();
  deeper.layers = 3;
  const auto source = quantized_model(dir.path() / "a", shape(), "int4-g32-sym");
  const auto larger = quantized_model(dir.path() / "b", deeper, "int4-g32-sym");
  for (const char* format : {"gguf", "onnx", "gptq", "compressed-tensors", "hf"}) {
    const Exported made = export_to(dir.path() / format, *source, {.format = format, .type = {}});
    EXPECT_THAT(error_of([&] { verify_artifact(made.path, *larger, g_context); }), HasSubstr("layers.2.")) << format;
  }
}

}  // namespace
}  // namespace retort
