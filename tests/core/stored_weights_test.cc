// Checkpoints that other programs quantized: their integers, held to an independent reading of their files
// (tests/oracles/make_quantized_goldens.py), and what is refused.
#include "core/checkpoint/stored_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <functional>
#include <numeric>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/model_source.h"
#include "core/checkpoint/safetensors.h"
#include "tests/support/memory_source.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TempDir;

// As the script computes it.
template <typename T>
std::string checksum(const std::vector<T>& values) {
  uint64_t sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    uint64_t weight = (i + 1) * 0x9E3779B97F4A7C15u;
    weight ^= weight >> 29;
    uint32_t number = 0;
    std::memcpy(&number, &values[i], sizeof values[i]);
    sum += (number + uint64_t{1}) * weight;
  }
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(sum));
  return text;
}

Json checksums_of(const QuantizedMatrix& m) {
  std::vector<uint8_t> zeros;
  for (int64_t r = 0; r < m.rows; ++r)
    for (int64_t g = 0; g < m.groups(); ++g) zeros.push_back(m.zero(r, g));
  std::vector<int32_t> groups;
  for (int64_t c = 0; c < m.cols; ++c) groups.push_back(static_cast<int32_t>(m.group_of(c)));
  return {{"codes", checksum(m.codes)},
          {"scales", checksum(m.scales)},
          {"zeros", checksum(zeros)},
          {"groups", checksum(groups)}};
}

struct Sample {
  const char *name, *container, *scheme;
  bool scattered;
};

class Samples : public ::testing::TestWithParam<Sample> {};

TEST_P(Samples, GiveTheIntegersOfTheirFiles) {
  const auto [name, container, scheme, scattered] = GetParam();
  const fs::path path = fs::path(RETORT_SOURCE_DIR "/../shared/data/quantized") / name;
  if (!fs::exists(path)) GTEST_SKIP() << "the samples of other programs' checkpoints are absent: " << path;
  const Json golden =
      read_json_file(fs::path(RETORT_SOURCE_DIR "/tests/golden/quantized") / (std::string(name) + ".json"))["weights"];
  const auto source = open_model(path);
  EXPECT_EQ(source->container(), container);
  EXPECT_THAT(source->problems(), IsEmpty());
  size_t quantized = 0;
  for (const ModelTensor& tensor : source->tensors()) {
    if (tensor.scheme.is_dense()) continue;
    const QuantizedMatrix m = source->read_quantized(tensor);
    EXPECT_EQ(name_of(m.scheme), scheme) << tensor.name;
    EXPECT_EQ(!m.column_group.empty(), scattered) << tensor.name;
    EXPECT_EQ(checksums_of(m), golden[tensor.name]) << tensor.name;
    ++quantized;
    std::vector<float> rows(static_cast<size_t>(37 * m.cols)), want(rows.size());  // no whole words
    source->read_f32(tensor, 21, 37, rows);
    dequantize_rows(m, 21, 37, want);
    EXPECT_EQ(rows, want) << tensor.name;
  }
  EXPECT_EQ(quantized, golden.size());
}

INSTANTIATE_TEST_SUITE_P(StoredWeights, Samples,
                         ::testing::Values(Sample{"gptqmodel-gptq", "gptq", "int4-g128-sym", false},
                                           Sample{"gptqmodel-gptq-v2-desc-act", "gptq", "int4-g32-asym", true},
                                           Sample{"gptqmodel-awq", "awq", "int4-g128-asym", false},
                                           Sample{"llmcompressor-gptq", "compressed-tensors", "int4-g128-sym", false},
                                           Sample{"llmcompressor-awq", "compressed-tensors", "int4-g128-asym", false}),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

// ---- a tiny model, written as other programs write theirs

struct Tensor {
  TensorInfo info;
  std::vector<std::byte> bytes;
};
using Tensors = std::map<std::string, Tensor>;

struct Checkpoint {
  Json settings;
  Tensors tensors;
};

const std::string kModule = "model.layers.0.mlp.down_proj";  // 64 rows of 160 columns

QuantizedMatrix random_matrix(const std::string& scheme, int64_t rows, int64_t cols, uint64_t seed) {
  testing::Random random(seed);
  QuantizedMatrix m = make_quantized(parse_scheme(scheme), rows, cols);
  for (auto& code : m.codes) code = static_cast<uint8_t>(random.below(m.scheme.max_code() + 1));
  for (auto& zero : m.zeros) zero = static_cast<uint8_t>(1 + random.below(m.scheme.max_code()));
  for (auto& scale : m.scales) scale = static_cast<float>(1 + random.below(200)) / 1024;
  return m;
}

Json gptq_settings(const char* version, int bits, int64_t group) {
  return {{"quant_method", "gptq"}, {"bits", bits}, {"group_size", group}, {"checkpoint_format", version}};
}
Json awq_settings(int64_t group) {
  return {{"quant_method", "awq"}, {"version", "gemm"}, {"bits", 4}, {"group_size", group}, {"zero_point", true}};
}
Json compressed_settings(int bits, int64_t group) {
  Json weights{{"num_bits", bits}, {"type", "int"}, {"strategy", group < 0 ? "channel" : "group"}};
  if (group > 0) weights["group_size"] = group;
  return {{"quant_method", "compressed-tensors"},
          {"format", "pack-quantized"},
          {"quantization_status", "compressed"},
          {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}}}}}};
}

// The matrices of the model, by name; those of layer 1 stay dense.
std::map<std::string, QuantizedMatrix> matrices(const ModelSource& dense, const std::string& scheme) {
  std::map<std::string, QuantizedMatrix> found;
  for (const ModelTensor& tensor : dense.tensors())
    if (tensor.name.find("layers.0") != std::string::npos && tensor.shape.size() == 2)
      found.emplace(tensor.name, random_matrix(scheme, tensor.rows(), tensor.cols(), found.size()));
  return found;
}

Checkpoint checkpoint(const ModelSource& dense, const std::map<std::string, QuantizedMatrix>& weights,
                      const char* format, Json settings) {
  Checkpoint made{std::move(settings), {}};
  for (const ModelTensor& tensor : dense.tensors()) {
    const auto matrix = weights.find(tensor.name);
    if (matrix == weights.end()) {
      std::vector<std::byte> bytes(tensor.bytes);
      dense.read_dense(tensor, 0, tensor.rows(), bytes);
      made.tensors[tensor.name] = {{tensor.name, *tensor.scheme.dense, tensor.shape, 0, 0}, bytes};
      continue;
    }
    const std::string module = tensor.name.substr(0, tensor.name.rfind('.') + 1);
    for (const PackedPart& part : packed_format(format).pack(matrix->second)) {
      const std::string name = module + std::string(part.name);
      made.tensors[name] = {{name, part.dtype, part.shape, 0, 0}, {part.bytes.begin(), part.bytes.end()}};
    }
  }
  return made;
}

void save(const fs::path& directory, const Checkpoint& made) {
  Json config = read_json_file(directory / "config.json");
  config["quantization_config"] = made.settings;
  write_text_file(directory / "config.json", config.dump());
  fs::remove(directory / "model.safetensors");
  SafetensorsWriter writer(directory);
  for (const auto& [name, tensor] : made.tensors) writer.add(name, tensor.info.dtype, tensor.info.shape, tensor.bytes);
  writer.finish();
}

struct Case {
  const char *format, *scheme;
  Json settings;
};

std::vector<Case> cases() {
  return {{"gptq", "int4-g32-sym", gptq_settings("gptq", 4, 32)},
          {"gptq_v2", "int4-g32-asym", gptq_settings("gptq_v2", 4, 32)},
          {"gptq_v2", "int3-g32-asym", gptq_settings("gptq_v2", 3, 32)},
          {"gptq", "int2-channel-sym", gptq_settings("gptq", 2, -1)},
          {"gptq_v2", "int8-g16-asym", gptq_settings("gptq_v2", 8, 16)},
          {"awq", "int4-g32-sym", awq_settings(32)},
          {"awq", "int4-channel-asym", awq_settings(-1)},
          {"compressed-tensors", "int4-g32-sym", compressed_settings(4, 32)},
          {"compressed-tensors", "int4-g32-asym", compressed_settings(4, 32)},
          {"compressed-tensors", "int8-channel-sym", compressed_settings(8, -1)},
          {"compressed-tensors", "int3-channel-asym", compressed_settings(3, -1)}};
}

class StoredWeightsTest : public ::testing::Test {
 protected:
  StoredWeightsTest() {
    testing::write_tiny_model(dir_.path(), {.layers = 2, .extra = Json::object()});
    dense_ = open_model(dir_.path());
    values_ = [this] {
      std::map<std::string, std::vector<float>> values;
      for (const ModelTensor& tensor : dense_->tensors()) values[tensor.name] = dense_->read_f32(tensor);
      return values;
    }();
  }

  std::string error_of(const Checkpoint& made) {
    save(dir_.path(), made);
    try {
      const auto source = open_model(dir_.path());
      for (const ModelTensor& tensor : source->tensors())
        if (!tensor.scheme.is_dense()) source->read_quantized(tensor);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }
  std::string error_of(Checkpoint made, const std::function<void(Checkpoint&)>& edit) {
    edit(made);
    return error_of(made);
  }

  TempDir dir_;
  std::unique_ptr<ModelSource> dense_;
  std::map<std::string, std::vector<float>> values_;
};

TEST_F(StoredWeightsTest, GiveBackEveryIntegerOfEveryMethod) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(std::string(c.format) + " " + c.scheme);
    auto weights = matrices(*dense_, c.scheme);
    if (std::string_view(c.scheme).find("-g") != std::string_view::npos && c.format[0] == 'g')
      weights.at(kModule + ".weight").column_group =
          testing::shuffled_groups(parse_scheme(c.scheme), weights.at(kModule + ".weight").cols, 3);
    save(dir_.path(), checkpoint(*dense_, weights, c.format, c.settings));
    const auto source = open_model(dir_.path());
    EXPECT_THAT(source->problems(), IsEmpty());
    for (const ModelTensor& tensor : source->tensors()) {
      const auto matrix = weights.find(tensor.name);
      if (matrix == weights.end()) {
        EXPECT_EQ(source->read_f32(tensor), values_.at(tensor.name)) << tensor.name;
        continue;
      }
      const QuantizedMatrix m = source->read_quantized(tensor);
      EXPECT_EQ(m.scheme, matrix->second.scheme) << tensor.name;
      EXPECT_EQ(m.codes, matrix->second.codes) << tensor.name;
      EXPECT_EQ(m.scales, matrix->second.scales) << tensor.name;
      EXPECT_EQ(m.zeros, matrix->second.zeros) << tensor.name;
      EXPECT_EQ(m.column_group, matrix->second.column_group) << tensor.name;
    }
  }
}

// Lines of GPTQ and AWQ hold pieces of all rows: whoever looks at one row has all pages of the part in memory.
TEST_F(StoredWeightsTest, CountsWhatComesIntoMemory) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(std::string(c.format) + " " + c.scheme);
    ModelConfig config = dense_->config();
    config.json["quantization_config"] = c.settings;
    const std::string label = "here";
    const StoredQuantization quantization(config, label);
    const QuantizedMatrix matrix = matrices(*dense_, c.scheme).at(kModule + ".weight");
    const std::vector<PackedPart> parts = packed_format(c.format).pack(matrix);
    const bool across = c.format != std::string_view("compressed-tensors");
    uint64_t all = 0, of_all_rows = 0;
    for (const PackedPart& part : parts) {
      all += part.bytes.size();
      if (across || part.name == "weight_shape") of_all_rows += part.bytes.size();
    }
    const auto read = [&](int64_t first, int64_t count) {
      return quantization.bytes_read(matrix.rows, views_of(parts), first, count);
    };
    ASSERT_EQ(matrix.rows, 64);
    EXPECT_EQ(read(0, 64), all);
    EXPECT_EQ(read(0, 32) + read(32, 32), all + of_all_rows);
    if (across)
      EXPECT_EQ(read(0, 1), all);
    else
      EXPECT_LT(read(0, 1), all / 8);
    EXPECT_EQ(read(16, 32) == 0, across);
  }
}

TEST_F(StoredWeightsTest, DamageIsRefusedByName) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(std::string(c.format) + " " + c.scheme);
    const Checkpoint good = checkpoint(*dense_, matrices(*dense_, c.scheme), c.format, c.settings);
    EXPECT_EQ(error_of(good), "no error");
    std::vector<std::string> parts;
    for (const auto& [name, tensor] : good.tensors)
      if (name.starts_with(kModule + ".")) parts.push_back(name);
    for (const std::string& name : parts) {
      const bool optional = name.ends_with(".g_idx") || name.ends_with(".weight_shape");
      const std::string missing = error_of(good, [&](Checkpoint& bad) { bad.tensors.erase(name); });
      // Without its zero points a weight of compressed-tensors is symmetric.
      if (!optional && !name.ends_with("weight_zero_point")) {
        EXPECT_THAT(missing, HasSubstr(kModule)) << name;
      }
      const std::string type = error_of(good, [&](Checkpoint& bad) {
        Tensor& tensor = bad.tensors.at(name);
        if (tensor.info.dtype == DType::kI32) {
          tensor.info.dtype = DType::kF32;
        } else {
          tensor.info.dtype = DType::kI16;
          tensor.info.shape.back() *=
              static_cast<int64_t>(tensor.bytes.size() / 2) /
              std::accumulate(tensor.info.shape.begin(), tensor.info.shape.end(), int64_t{1}, std::multiplies<>());
        }
      });
      EXPECT_THAT(type, HasSubstr(kModule)) << name;
      const std::string shape = error_of(good, [&](Checkpoint& bad) {
        Tensor& tensor = bad.tensors.at(name);
        tensor.info.shape.insert(tensor.info.shape.begin(), 1);
      });
      EXPECT_THAT(shape, HasSubstr(kModule)) << name;
    }
  }
}

TEST_F(StoredWeightsTest, APartWithARowTooManyIsFoundWhenTheModelIsOpened) {
  Checkpoint made =
      checkpoint(*dense_, matrices(*dense_, "int4-g32-asym"), "compressed-tensors", compressed_settings(4, 32));
  Tensor& zeros = made.tensors.at(kModule + ".weight_zero_point");
  const size_t row_bytes = zeros.bytes.size() / static_cast<size_t>(zeros.info.shape[0]);
  zeros.info.shape[0] += 1;
  zeros.bytes.resize(zeros.bytes.size() + row_bytes);
  save(dir_.path(), made);
  try {
    open_model(dir_.path());
    ADD_FAILURE() << "it was opened";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("'weight_zero_point' of 9 does not divide among 64 rows"));
  }
}

TEST_F(StoredWeightsTest, RefusesWhatTheSettingsCannotMean) {
  const Checkpoint gptq = checkpoint(*dense_, matrices(*dense_, "int4-g32-sym"), "gptq", gptq_settings("gptq", 4, 32));
  const auto with = [&](const Checkpoint& good, const char* key, const Json& value) {
    return error_of(good, [&](Checkpoint& bad) { bad.settings[key] = value; });
  };
  EXPECT_THAT(with(gptq, "quant_method", "bitsandbytes"), HasSubstr("bitsandbytes"));
  EXPECT_THAT(with(gptq, "checkpoint_format", "marlin"), HasSubstr("marlin"));
  EXPECT_THAT(with(gptq, "pack_dtype", "int16"), HasSubstr("int16"));
  EXPECT_THAT(with(gptq, "bits", 5), HasSubstr("5 bits"));
  EXPECT_THAT(with(gptq, "bits", "4"), HasSubstr("bits"));
  EXPECT_THAT(with(gptq, "bits", 8), HasSubstr("which no bits and group_size"));
  EXPECT_THAT(with(gptq, "group_size", 64), HasSubstr("which no bits and group_size"));
  EXPECT_THAT(with(gptq, "group_size", 0), HasSubstr("groups of 0"));
  EXPECT_EQ(with(gptq, "dynamic", Json{{"-:^lm_head$", Json::object()}, {"+:.*", {{"group_size", 64}}}}), "no error");
  EXPECT_THAT(error_of(gptq,
                       [&](Checkpoint& bad) {
                         bad.settings["desc_act"] = true;
                         bad.tensors.erase(kModule + ".g_idx");
                       }),
              HasSubstr("g_idx"));

  const Checkpoint packed =
      checkpoint(*dense_, matrices(*dense_, "int4-g32-sym"), "compressed-tensors", compressed_settings(4, 32));
  EXPECT_THAT(with(packed, "format", "float-quantized"), HasSubstr("float-quantized"));
  EXPECT_THAT(with(packed, "quantization_status", "frozen"), HasSubstr("frozen"));
  EXPECT_THAT(with(packed, "transform_config", {{"config_groups", 1}}), HasSubstr("transform_config"));
  Json groups = packed.settings["config_groups"];
  groups.front()["input_activations"] = {{"num_bits", 8}};
  EXPECT_THAT(with(packed, "config_groups", groups), HasSubstr("input_activations"));
  EXPECT_THAT(with(packed, "config_groups", 3), HasSubstr("config_groups"));
  EXPECT_THAT(with(packed, "config_groups", {{"group_0", {{"weights", nullptr}}}}), HasSubstr("weights"));
  EXPECT_THAT(
      error_of(packed, [](Checkpoint& bad) { bad.tensors.at(kModule + ".weight_shape").bytes[0] ^= std::byte{1}; }),
      HasSubstr("weight_shape"));
}

// A symmetric file that says version 1 and stores version 2's zero points; a version 1 zero point of 0.
TEST_F(StoredWeightsTest, ReadsZeroPointsByWhatTheyMean) {
  const auto weights = matrices(*dense_, "int4-g32-sym");
  Checkpoint wrong = checkpoint(*dense_, weights, "gptq_v2", gptq_settings("gptq", 4, 32));
  wrong.settings["sym"] = true;
  save(dir_.path(), wrong);
  const auto source = open_model(dir_.path());
  EXPECT_THAT(source->problems(), ::testing::ElementsAre(HasSubstr("gptq_v2")));
  EXPECT_EQ(source->read_quantized(source->at(kModule + ".weight")).codes, weights.at(kModule + ".weight").codes);
  EXPECT_EQ(name_of(source->at(kModule + ".weight").scheme), "int4-g32-sym");

  Checkpoint asymmetric =
      checkpoint(*dense_, matrices(*dense_, "int4-g32-asym"), "gptq_v2", gptq_settings("gptq", 4, 32));
  EXPECT_THAT(
      error_of(asymmetric, [](Checkpoint& bad) { bad.tensors.at(kModule + ".qzeros").bytes[0] = std::byte{0x3F}; }),
      HasSubstr("a zero point of version 1 is 0"));
}

// bf16 and float32 hold scales that f16 does not: the weight is then read as the float32 numbers it stands for.
TEST_F(StoredWeightsTest, KeepsScalesThatF16DoesNotHold) {
  const auto weights = matrices(*dense_, "int4-g32-sym");
  Checkpoint made = checkpoint(*dense_, weights, "compressed-tensors", compressed_settings(4, 32));
  Tensor& scales = made.tensors.at(kModule + ".weight_scale");
  ASSERT_EQ(scales.info.dtype, DType::kBF16);
  const uint16_t tiny = f32_to_bf16(1.5f * 0x1p-30f);
  std::memcpy(scales.bytes.data(), &tiny, 2);
  save(dir_.path(), made);
  const auto source = open_model(dir_.path());
  EXPECT_THAT(source->problems(), ::testing::ElementsAre(HasSubstr("f16 does not hold")));
  QuantizedMatrix expected = weights.at(kModule + ".weight");
  expected.scales[0] = 1.5f * 0x1p-30f;
  std::vector<float> values(expected.codes.size());
  dequantize_rows(expected, 0, expected.rows, values);
  const ModelTensor& tensor = source->at(kModule + ".weight");
  EXPECT_EQ(name_of(tensor.scheme), "f32");
  EXPECT_EQ(tensor.stored, "int4-g32-sym");
  EXPECT_EQ(source->read_f32(tensor), values);
  std::vector<std::byte> bytes(values.size() * 4);
  source->read_dense(tensor, 0, tensor.rows(), bytes);
  EXPECT_EQ(std::memcmp(bytes.data(), values.data(), bytes.size()), 0);
  EXPECT_THROW(source->read_quantized(tensor), Error);
  EXPECT_FALSE(source->at("model.layers.0.mlp.up_proj.weight").scheme.is_dense());
}

}  // namespace
}  // namespace retort
