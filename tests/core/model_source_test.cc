// Models in directories: what is read, what is refused, what is written.
#include "core/checkpoint/model_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <optional>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/model_digest.h"
#include "core/checkpoint/safetensors.h"
#include "tests/support/memory_source.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TempDir;
using testing::TinyModel;

std::string open_error(const fs::path& path) {
  try {
    open_model(path);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

void write(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

void edit_config(const fs::path& directory, const Json& changes) {
  Json config = read_json_file(directory / "config.json");
  for (const auto& [key, value] : changes.items()) config[key] = value;
  write(directory / "config.json", config.dump());
}

// The tensors of `directory` written again, changed by `edit`, in shards of at most `shard` bytes.
using Stored = std::vector<std::pair<TensorInfo, std::string>>;
void rewrite(const fs::path& directory, const std::function<void(Stored&)>& edit, uint64_t shard = UINT64_MAX) {
  Stored tensors;
  {
    const SafetensorsFile file(directory / "model.safetensors");
    for (const TensorInfo& info : file.tensors()) {
      const auto bytes = file.data(info);
      tensors.emplace_back(info, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    }
  }
  fs::remove(directory / "model.safetensors");
  edit(tensors);
  SafetensorsWriter writer(directory, shard);
  for (const auto& [info, bytes] : tensors)
    writer.add(info.name, info.dtype, info.shape, std::as_bytes(std::span(bytes)));
  writer.finish();
}

std::pair<TensorInfo, std::string>& named(Stored& tensors, const std::string& name) {
  return *std::ranges::find_if(tensors, [&](const auto& t) { return t.first.name == name; });
}

void expect_weights(const ModelSource& source, const TinyModel& model) {
  const auto weights = testing::tiny_weights(model);
  ASSERT_EQ(source.tensors().size(), weights.size());
  for (const ModelTensor& tensor : source.tensors()) {
    ASSERT_TRUE(weights.contains(tensor.name)) << tensor.name;
    EXPECT_EQ(source.read_f32(tensor), weights.at(tensor.name)) << tensor.name;
  }
}

TEST(HuggingFace, ReadsEveryFamilyInEveryType) {
  for (const Family& family : families())
    for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
      const TempDir dir;
      const TinyModel model{.model_type = std::string(family.model_type), .dtype = type, .extra = Json::object()};
      testing::write_tiny_model(dir.path(), model);
      const auto source = open_model(dir.path());
      EXPECT_EQ(source->container(), "huggingface");
      EXPECT_EQ(source->config().family, &family);
      EXPECT_THAT(source->problems(), IsEmpty());
      expect_weights(*source, model);
      const ModelTensor& embedding = source->at("model.embed_tokens.weight");
      EXPECT_EQ(embedding.scheme.dense, type);
      EXPECT_EQ(embedding.bytes, static_cast<uint64_t>(embedding.elements()) * size_of(type));
    }
}

TEST(HuggingFace, ReadsRowsAsTheyAreStored) {
  const TempDir dir;
  const TinyModel model{.dtype = DType::kBF16, .extra = Json::object()};
  testing::write_tiny_model(dir.path(), model);
  const auto source = open_model(dir.path());
  const ModelTensor& tensor = source->at("model.layers.1.mlp.down_proj.weight");
  const auto weights = testing::tiny_weights(model).at(tensor.name);
  const int64_t cols = tensor.cols();
  std::vector<float> rows(static_cast<size_t>(3 * cols));
  source->read_f32(tensor, 5, 3, rows);
  EXPECT_TRUE(std::equal(rows.begin(), rows.end(), weights.begin() + 5 * cols));
  std::vector<std::byte> stored(rows.size() * 2), expected(rows.size() * 2);
  source->read_dense(tensor, 5, 3, stored);
  encode_from_f32(DType::kBF16, rows, expected);
  EXPECT_EQ(stored, expected);
  EXPECT_THROW(source->read_f32(tensor, tensor.rows() - 2, 3, rows), Error);
  EXPECT_THROW(source->read_f32(tensor, -1, 3, rows), Error);
  EXPECT_THROW(source->read_f32(tensor, 0, 4, rows), Error);
  EXPECT_THROW(source->read_quantized(tensor), Error);
}

TEST(HuggingFace, ReadsShardsThroughTheIndex) {
  const TempDir dir;
  const TinyModel model{.extra = Json::object()};
  testing::write_tiny_model(dir.path(), model);
  rewrite(
      dir.path(), [](Stored&) {}, 50'000);
  ASSERT_TRUE(fs::exists(dir.path() / "model.safetensors.index.json"));
  expect_weights(*open_model(dir.path()), model);

  const fs::path index = dir.path() / "model.safetensors.index.json";
  const Json good = read_json_file(index);
  const std::string first = good["weight_map"].begin().value(), tensor = good["weight_map"].begin().key();
  for (const char* name : {"../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "."}) {
    Json bad = good;
    bad["weight_map"][tensor] = name;
    write(index, bad.dump());
    EXPECT_THAT(open_error(dir.path()), HasSubstr("not the name of a file in this directory")) << name;
  }
  Json bad = good;
  bad["weight_map"][tensor] = "gone.safetensors";
  write(index, bad.dump());
  EXPECT_THAT(open_error(dir.path()), HasSubstr("gone.safetensors"));
  bad = good;
  bad["weight_map"]["model.extra"] = first;
  write(index, bad.dump());
  EXPECT_THAT(open_error(dir.path()), HasSubstr("model.extra"));
  for (const char* text : {"{}", "[]", "{\"weight_map\":[]}", "{\"weight_map\":{\"a\":3}}", ""}) {
    write(index, text);
    EXPECT_NE(open_error(dir.path()), "no error") << text;
  }
  // A link to a file elsewhere (as the cache of huggingface_hub makes them) is read.
  write(index, good.dump());
  fs::rename(dir.path() / first, dir.path() / "elsewhere");
  fs::create_symlink("elsewhere", dir.path() / first);
  expect_weights(*open_model(dir.path()), model);
  // The same tensor in two shards.
  fs::remove(dir.path() / first);
  fs::copy_file(dir.path() / good["weight_map"].back().get<std::string>(), dir.path() / first);
  EXPECT_THAT(open_error(dir.path()), HasSubstr("also in"));
}

TEST(HuggingFace, NamesWhatIsMissingMisshapenOrTooMuch) {
  const TempDir dir;
  testing::write_tiny_model(dir.path(), {.extra = Json::object()});
  const std::string down = "model.layers.2.mlp.down_proj.weight";
  rewrite(dir.path(), [](Stored& t) {
    t.emplace_back(
        TensorInfo{.name = "model.layers.0.self_attn.rotary_emb.inv_freq", .dtype = DType::kF32, .shape = {1}}, "abcd");
  });
  EXPECT_THAT(open_model(dir.path())->problems(), ElementsAre(HasSubstr("rotary_emb.inv_freq")));
  rewrite(dir.path(), [&](Stored& t) { std::swap(named(t, down).first.shape[0], named(t, down).first.shape[1]); });
  EXPECT_THAT(open_error(dir.path()), HasSubstr(down));
  EXPECT_THAT(open_error(dir.path()), HasSubstr("[160,64]"));
  rewrite(dir.path(), [&](Stored& t) { named(t, down).first.name = "renamed"; });
  EXPECT_THAT(open_error(dir.path()), HasSubstr("'" + down + "' is missing"));
  edit_config(dir.path(), {{"model_type", "gpt2"}});
  EXPECT_THAT(open_error(dir.path()), HasSubstr("gpt2"));
  fs::remove(dir.path() / "config.json");
  EXPECT_THAT(open_error(dir.path()), HasSubstr("config.json"));
  EXPECT_THAT(open_error(dir.path() / "nothing"), HasSubstr("no such"));
  EXPECT_THAT(open_error(dir.path() / "tokenizer.json"), HasSubstr("not a model"));
}

// The first tensor of `names`, with the rows of all, under `joined`.
void join(Stored& tensors, const std::string& joined, const std::vector<std::string>& names) {
  for (size_t i = 1; i < names.size(); ++i) {
    const auto more = named(tensors, names[i]);
    std::erase_if(tensors, [&](const auto& tensor) { return tensor.first.name == names[i]; });
    auto& [info, bytes] = named(tensors, names.front());
    info.shape[0] += more.first.shape[0];
    bytes += more.second;
  }
  named(tensors, names.front()).first.name = joined;
}

TEST(HuggingFace, TakesJoinedMatricesApart) {
  const TempDir dir;
  const TinyModel model{.extra = Json::object()};
  testing::write_tiny_model(dir.path(), model);
  edit_config(dir.path(), {{"model_type", "phi3"}});
  EXPECT_THAT(open_error(dir.path()), HasSubstr("'model.layers.0.self_attn.qkv_proj.weight' is missing"));
  rewrite(dir.path(), [](Stored& t) {
    for (int layer = 0; layer < 3; ++layer) {
      const std::string l = "model.layers." + std::to_string(layer) + ".", a = l + "self_attn.", m = l + "mlp.";
      join(t, a + "qkv_proj.weight", {a + "q_proj.weight", a + "k_proj.weight", a + "v_proj.weight"});
      join(t, m + "gate_up_proj.weight", {m + "gate_proj.weight", m + "up_proj.weight"});
    }
  });
  const auto source = open_model(dir.path());
  expect_weights(*source, model);
  EXPECT_THAT(source->problems(), IsEmpty());
  EXPECT_EQ(source->config().json["model_type"], "mistral");

  edit_config(dir.path(), {{"num_key_value_heads", 1}});
  EXPECT_THAT(open_error(dir.path()), HasSubstr("qkv_proj.weight' has the shape"));
  edit_config(dir.path(), {{"quantization_config", {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 32}}}});
  EXPECT_THAT(open_error(dir.path()), HasSubstr("quantized models of the model_type 'phi3' are not read"));
}

TEST(HuggingFace, SaysWhenTheWeightsArePickled) {
  const TempDir dir;
  testing::write_tiny_model(dir.path(), {.extra = Json::object()});
  fs::rename(dir.path() / "model.safetensors", dir.path() / "pytorch_model.bin");
  EXPECT_THAT(open_error(dir.path()), HasSubstr("pickled"));
  fs::remove(dir.path() / "pytorch_model.bin");
  EXPECT_THAT(open_error(dir.path()), HasSubstr("neither"));
}

TEST(HuggingFace, ReadsDoublesAndIntegersAsFloats) {
  const TempDir dir;
  const TinyModel model{.extra = Json::object()};
  testing::write_tiny_model(dir.path(), model);
  rewrite(dir.path(), [&](Stored& t) {
    auto& [info, bytes] = named(t, "model.norm.weight");
    std::string wide(bytes.size() * 2, '\0');
    for (size_t i = 0; i < bytes.size() / 4; ++i) {
      float value;
      std::memcpy(&value, bytes.data() + i * 4, 4);
      const double twice = value;
      std::memcpy(wide.data() + i * 8, &twice, 8);
    }
    info.dtype = DType::kF64;
    bytes = wide;
    auto& [ones, integers] = named(t, "model.layers.0.input_layernorm.weight");
    ones.dtype = DType::kI8;
    integers = std::string(64, '\2');
  });
  const auto source = open_model(dir.path());
  EXPECT_THAT(source->problems(), ElementsAre(HasSubstr("stored as i8"), HasSubstr("stored as f64")));
  const ModelTensor& norm = source->at("model.norm.weight");
  EXPECT_EQ(norm.scheme.dense, DType::kF32);
  const auto expected = testing::tiny_weights(model).at("model.norm.weight");
  EXPECT_EQ(source->read_f32(norm), expected);
  std::vector<std::byte> bytes(expected.size() * 4);
  source->read_dense(norm, 0, norm.rows(), bytes);
  EXPECT_EQ(std::memcmp(bytes.data(), expected.data(), bytes.size()), 0);
  EXPECT_EQ(source->read_f32(source->at("model.layers.0.input_layernorm.weight"))[7], 2.0f);
}

TEST(HuggingFace, ATiedModelMayRepeatItsEmbeddingButNotContradictIt) {
  const TempDir dir;
  const TinyModel model{.tied = true, .extra = Json::object()};
  testing::write_tiny_model(dir.path(), model);
  rewrite(dir.path(), [](Stored& t) {
    auto head = named(t, "model.embed_tokens.weight");
    head.first.name = "lm_head.weight";
    t.push_back(head);
  });
  const auto source = open_model(dir.path());
  EXPECT_THAT(source->problems(), ElementsAre(HasSubstr("repeats")));
  expect_weights(*source, model);
  rewrite(dir.path(), [](Stored& t) { named(t, "lm_head.weight").second[100] ^= 1; });
  EXPECT_THAT(open_error(dir.path()), HasSubstr("lm_head.weight"));
  edit_config(dir.path(), {{"tie_word_embeddings", false}});
  EXPECT_EQ(open_error(dir.path()), "no error");
}

TEST(HuggingFace, GenerationConfigSaysWhereTextsEnd) {
  const TempDir dir;
  testing::write_tiny_model(dir.path(), {.extra = Json::object()});
  EXPECT_THAT(open_model(dir.path())->config().eos_ids, ElementsAre(257));
  write(dir.path() / "generation_config.json", R"({"eos_token_id":[3,5]})");
  EXPECT_THAT(open_model(dir.path())->config().eos_ids, ElementsAre(3, 5));
  write(dir.path() / "generation_config.json", R"({"eos_token_id":null})");
  EXPECT_THAT(open_model(dir.path())->config().eos_ids, ElementsAre(257));
  write(dir.path() / "generation_config.json", R"({"eos_token_id":"x"})");
  EXPECT_THAT(open_error(dir.path()), HasSubstr("generation_config.json"));
}

TEST(HuggingFace, KeepsSideFilesByteForByte) {
  const TempDir dir;
  testing::write_tiny_model(dir.path(), {.extra = Json::object()});
  EXPECT_EQ(open_model(dir.path())->chat_template(), "");
  const std::string odd = std::string("{{ bos }}\r\n\0\xff tail ", 20);
  fs::create_directories(dir.path() / "additional_chat_templates");
  write(dir.path() / "additional_chat_templates" / "rag.jinja", odd);
  write(dir.path() / "tokenizer_config.json",
        R"({"chat_template":[{"name":"x","template":"no"},{"name":"default","template":"listed"}]})");
  EXPECT_EQ(open_model(dir.path())->chat_template(), "listed");
  write(dir.path() / "tokenizer_config.json", R"({"chat_template":"inline"})");
  EXPECT_EQ(open_model(dir.path())->chat_template(), "inline");
  write(dir.path() / "chat_template.jinja", odd);
  const auto source = open_model(dir.path());
  EXPECT_EQ(source->chat_template(), odd);

  const TempDir copy;
  ModelWriter writer(copy.path(), source->side_files());
  for (const ModelTensor& tensor : source->tensors())
    writer.add_f32(tensor.name, DType::kF32, tensor.shape, source->read_f32(tensor));
  writer.finish(source->config().json, Json());
  EXPECT_FALSE(fs::exists(copy.path() / "retort.json"));
  for (const SideFile& file : source->side_files()) EXPECT_EQ(read_text_file(copy.path() / file.name), file.bytes);
  EXPECT_EQ(read_text_file(copy.path() / "additional_chat_templates" / "rag.jinja"), odd);
  expect_weights(*open_model(copy.path()), {.extra = Json::object()});
}

TEST(ModelDigest, IsOfTheConfigurationAndTheWeightsAlone) {
  const testing::TempDir directory;
  testing::write_tiny_model(directory.path(), {});
  const std::string digest = digest_of_model(directory.path());
  for (const char* name : {"README.md", "measured.json", "tokenizer_config.json", "retort.json"}) {
    std::ofstream(directory.path() / name) << "{}";
    EXPECT_EQ(digest_of_model(directory.path()), digest) << name;
  }
  for (const char* name : {"config.json", "model.safetensors"}) {
    const std::string whole = read_text_file(directory.path() / name);
    write_text_file(directory.path() / name, whole + " ");
    EXPECT_NE(digest_of_model(directory.path()), digest) << name;
    write_text_file(directory.path() / name, whole);
  }
  EXPECT_EQ(digest_of_model(directory.path()), digest);
}

TEST(HuggingFace, RefusesUnknownQuantizationByName) {
  const TempDir dir;
  testing::write_tiny_model(dir.path(), {.extra = Json::object()});
  for (const char* method : {"bitsandbytes", "fp8"}) {
    edit_config(dir.path(), {{"quantization_config", {{"quant_method", method}, {"bits", 4}}}});
    EXPECT_THAT(open_error(dir.path()), HasSubstr(method));
  }
  edit_config(dir.path(), {{"quantization_config", nullptr}});
  EXPECT_EQ(open_error(dir.path()), "no error");
}

QuantizedMatrix random_matrix(const std::string& scheme, int64_t rows, int64_t cols, testing::Random& random) {
  QuantizedMatrix m = make_quantized(parse_scheme(scheme), rows, cols);
  for (auto& code : m.codes) code = static_cast<uint8_t>(random.below(m.scheme.max_code() + 1));
  for (auto& zero : m.zeros) zero = static_cast<uint8_t>(random.below(m.scheme.max_code() + 1));
  const float one = f16_to_f32(static_cast<uint16_t>(random.below(0x7c00)));
  const bool same = m.scheme.granularity == Granularity::kTensor;
  for (auto& scale : m.scales) scale = same ? one : f16_to_f32(static_cast<uint16_t>(random.below(0x7c00)));
  if (same && !m.zeros.empty()) std::fill(m.zeros.begin(), m.zeros.end(), m.zeros[0]);
  return m;
}

// Writes a native directory in which the linear weights take `schemes` in turn; returns what was put in.
std::map<std::string, QuantizedMatrix> write_native(const fs::path& directory, const ModelSource& source,
                                                    const std::vector<std::string>& schemes, bool outliers = false) {
  testing::Random random(7);
  std::map<std::string, QuantizedMatrix> matrices;
  ModelWriter writer(directory, source.side_files());
  size_t next = 0;
  for (const ModelTensor& tensor : source.tensors()) {
    const auto match = match_tensor(source.config(), tensor.name);
    if (match->rule->input == Input::kNone) {
      writer.add_f32(tensor.name, DType::kF16, tensor.shape, source.read_f32(tensor));
      continue;
    }
    QuantizedMatrix m = random_matrix(schemes[next++ % schemes.size()], tensor.rows(), tensor.cols(), random);
    if (m.scheme.granularity == Granularity::kGroup && m.scheme.block == BlockType::kNone && next % 2 == 0)
      for (int64_t c = 0; c < m.cols; ++c) m.column_group.push_back(static_cast<int32_t>(random.below(m.groups())));
    if (outliers) testing::keep_columns(m, source.read_f32(tensor), {0, 9, 10, 63});
    writer.add_quantized(tensor.name, m);
    matrices.emplace(tensor.name, std::move(m));
  }
  writer.finish(source.config().json, Json{{"scheme", "mixed"}});
  return matrices;
}

TEST(Native, GivesBackTheIntegersOfEveryScheme) {
  const TempDir hf, native;
  testing::write_tiny_model(hf.path(), {.extra = Json::object()});
  const auto source = open_model(hf.path());
  const auto matrices = write_native(
      native.path(), *source,
      {"int4-g32-sym", "int3-g32-asym", "q4_0", "int8-channel-sym", "q8_0", "int2-tensor-asym", "int3-g8-sym"});
  EXPECT_EQ(read_json_file(native.path() / "retort.json")["scheme"], "mixed");
  const auto opened = open_model(native.path());
  EXPECT_EQ(opened->container(), "native");
  EXPECT_THAT(opened->problems(), IsEmpty());
  for (const auto& [name, expected] : matrices) {
    const ModelTensor& tensor = opened->at(name);
    const QuantizedMatrix m = opened->read_quantized(tensor);
    EXPECT_EQ(m.scheme, expected.scheme) << name;
    EXPECT_EQ(m.codes, expected.codes) << name;
    EXPECT_EQ(m.scales, expected.scales) << name;
    EXPECT_EQ(m.zeros, expected.zeros) << name;
    EXPECT_EQ(m.column_group, expected.column_group) << name;
    std::vector<float> rows(static_cast<size_t>(2 * tensor.cols())), want(rows.size());
    opened->read_f32(tensor, tensor.rows() - 2, 2, rows);
    dequantize_rows(expected, tensor.rows() - 2, 2, want);
    EXPECT_EQ(rows, want) << name;
    std::vector<std::byte> bytes(rows.size() * 4);
    EXPECT_THROW(opened->read_dense(tensor, 0, 2, bytes), Error);
  }
}

QuantizedMatrix rows_of(const QuantizedMatrix& m, int64_t first, int64_t count) {
  QuantizedMatrix rows = make_quantized(m.scheme, count, m.cols);
  std::copy_n(m.codes.begin() + first * m.cols, count * m.cols, rows.codes.begin());
  std::copy_n(m.scales.begin() + first * m.groups(), count * m.groups(), rows.scales.begin());
  if (!m.zeros.empty()) std::copy_n(m.zeros.begin() + first * m.groups(), count * m.groups(), rows.zeros.begin());
  return rows;
}

// A matrix that comes in runs is stored as the whole; of one whose last run cannot be made nothing is.
TEST(Native, TakesMatricesInRuns) {
  testing::Random random(3);
  for (const char* scheme : {"int3-g32-asym", "q4_0"}) {
    const QuantizedMatrix whole = random_matrix(scheme, 1000, 256, random);
    const auto stored = [&](int threads, std::optional<int64_t> missing) {
      const TempDir dir;
      ThreadPool pool(threads);
      ModelWriter writer(dir.path(), {});
      const auto make = [&](int64_t first, int64_t count) -> std::optional<QuantizedMatrix> {
        return first == missing ? std::nullopt : std::optional(rows_of(whole, first, count));
      };
      if (missing) {
        EXPECT_FALSE(writer.add_quantized("w", whole.scheme, {1000, 256, 64, make}, pool));
        missing.reset();
      }
      if (threads == 0)
        writer.add_quantized("w", whole);
      else
        writer.add_quantized("w", whole.scheme, {1000, 256, 64, make}, pool);
      writer.finish(Json::object(), nullptr);
      return read_text_file(dir.path() / "model.safetensors") + read_text_file(dir.path() / "config.json");
    };
    const std::string expected = stored(0, std::nullopt);
    for (const int threads : {1, 3})
      for (const std::optional<int64_t> missing : {std::optional<int64_t>(), std::optional<int64_t>(0),
                                                   std::optional<int64_t>(640), std::optional<int64_t>(960)})
        EXPECT_TRUE(stored(threads, missing) == expected) << scheme << " " << threads;
  }
}

// They are cut by rows as everything else, and programs that know only version 1 refuse them.
TEST(Native, HoldsColumnsIn16Bits) {
  const TempDir hf, native;
  testing::write_tiny_model(hf.path(), {});
  const auto matrices = write_native(native.path(), *open_model(hf.path()), {"int4-g32-sym", "int3-g32-asym"}, true);
  EXPECT_EQ(read_json_file(native.path() / "config.json")["quantization_config"]["version"], 2);
  const auto opened = open_model(native.path());
  EXPECT_THAT(opened->problems(), IsEmpty());
  for (const auto& [name, expected] : matrices) {
    const ModelTensor& tensor = opened->at(name);
    EXPECT_EQ(tensor.outliers, 4);
    const QuantizedMatrix m = opened->read_quantized(tensor), row = opened->read_quantized_rows(tensor, 5, 1);
    EXPECT_EQ(m.outlier_columns, expected.outlier_columns) << name;
    EXPECT_EQ(m.outliers, expected.outliers) << name;
    EXPECT_EQ(row.outliers, (std::vector<float>{m.outliers.begin() + 20, m.outliers.begin() + 24})) << name;
    std::vector<float> rows(static_cast<size_t>(2 * tensor.cols())), want(rows.size());
    opened->read_f32(tensor, 5, 2, rows);
    dequantize_rows(expected, 5, 2, want);
    EXPECT_EQ(rows, want) << name;
  }
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  rewrite(native.path(), [&](Stored& t) { named(t, name + ".outliers").first.name = name + ".other"; });
  EXPECT_THAT(open_error(native.path()), HasSubstr("'outliers' is missing"));
}

TEST(Native, DamageIsRefusedByName) {
  const TempDir hf, native;
  testing::write_tiny_model(hf.path(), {.extra = Json::object()});
  write_native(native.path(), *open_model(hf.path()), {"int4-g32-asym"});
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  const Json good = read_json_file(native.path() / "config.json");
  const auto with = [&](const std::function<void(Json&)>& edit) {
    Json config = good;
    edit(config["quantization_config"]);
    write(native.path() / "config.json", config.dump());
    return open_error(native.path());
  };
  EXPECT_EQ(with([](Json&) {}), "no error");
  EXPECT_THAT(with([&](Json& q) { q["tensors"][name] = "int4-g64-asym"; }), HasSubstr(name));
  EXPECT_THAT(with([&](Json& q) { q["tensors"][name] = "int9"; }), HasSubstr("int9"));
  EXPECT_THAT(with([&](Json& q) { q["tensors"][name] = "f16"; }), HasSubstr("f16"));
  EXPECT_THAT(with([&](Json& q) { q["tensors"][name] = 4; }), HasSubstr(name));
  EXPECT_THAT(with([&](Json& q) { q["tensors"]["model.norm.weight"] = "int4"; }), HasSubstr("model.norm.weight"));
  EXPECT_THAT(with([&](Json& q) { q["tensors"]["other"] = "int4"; }), HasSubstr("other"));
  EXPECT_THAT(with([&](Json& q) { q["tensors"].erase(name); }), HasSubstr(name));
  EXPECT_THAT(with([&](Json& q) { q["version"] = 3; }), HasSubstr("version 3"));
  EXPECT_THAT(with([&](Json& q) { q.erase("tensors"); }), HasSubstr("tensors"));
  with([](Json&) {});
  rewrite(native.path(), [&](Stored& t) { named(t, name + ".zeros").first.name = name + ".other"; });
  EXPECT_THAT(open_error(native.path()), HasSubstr(name));
}

TEST(Shared, ReadsTheSharedModels) {
  for (const char* name : {"books-5.8m", "stories260K-hf"}) {
    const fs::path path = fs::path(RETORT_SOURCE_DIR "/../shared/data/weights") / name;
    if (!fs::exists(path)) GTEST_SKIP() << "the shared test models are absent: " << path;
    const auto source = open_model(path);
    EXPECT_THAT(source->problems(), IsEmpty());
    EXPECT_GT(source->config().parameters(), 100'000);
    for (const ModelTensor& tensor : source->tensors()) EXPECT_GT(source->read_f32(tensor).size(), 0u);
  }
}

}  // namespace
}  // namespace retort
