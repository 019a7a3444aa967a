// The GGUF container and the models in it. Files are made by hand here: nothing is shared with our writer.
#include "core/checkpoint/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>

#include "core/base/error.h"
#include "core/checkpoint/gguf_model.h"
#include "core/checkpoint/model_source.h"
#include "core/pack/packed_format.h"
#include "tests/support/error_of.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TempDir;
using testing::TinyModel;

const fs::path kShared = RETORT_SOURCE_DIR "/../shared/data";

// Bytes of a GGUF file, little-endian.
struct Bytes {
  std::string text;
  template <typename T>
  Bytes& put(T value) {
    text.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Bytes& str(const std::string& value) {
    put<uint64_t>(value.size());
    text += value;
    return *this;
  }
  Bytes& pad(size_t alignment) {
    text.resize((text.size() + alignment - 1) / alignment * alignment, '\0');
    return *this;
  }
};

Bytes head(uint64_t tensors, uint64_t entries, uint32_t version = 3) {
  Bytes out;
  out.text = "GGUF";
  return out.put(version).put(tensors).put(entries);
}

GgufHeader parse(const std::string& file) { return parse_gguf(std::as_bytes(std::span(file)), "x.gguf"); }

std::string error_of(const std::string& file) {
  return error_of([&] { parse(file); });
}

// One value of every type, and two tensors: 3 x 32 of Q8_0 and a vector of F32.
std::string good_file(uint32_t version = 3) {
  Bytes out = head(2, 14, version);
  out.str("u8").put<uint32_t>(0).put<uint8_t>(200);
  out.str("i8").put<uint32_t>(1).put<int8_t>(-5);
  out.str("u16").put<uint32_t>(2).put<uint16_t>(60000);
  out.str("i16").put<uint32_t>(3).put<int16_t>(-3000);
  out.str("u32").put<uint32_t>(4).put<uint32_t>(4000000000u);
  out.str("i32").put<uint32_t>(5).put<int32_t>(-7);
  out.str("f32").put<uint32_t>(6).put(1e-5f);
  out.str("bool").put<uint32_t>(7).put<uint8_t>(1);
  out.str("string").put<uint32_t>(8).str("text");
  out.str("strings").put<uint32_t>(9).put<uint32_t>(8).put<uint64_t>(2).str("a").str("");
  out.str("floats").put<uint32_t>(9).put<uint32_t>(6).put<uint64_t>(2).put(0.5f).put(-2.0f);
  out.str("u64").put<uint32_t>(10).put<uint64_t>(1ull << 40);
  out.str("i64").put<uint32_t>(11).put<int64_t>(-1);
  out.str("f64").put<uint32_t>(12).put(0.1);
  out.str("m").put<uint32_t>(2).put<uint64_t>(32).put<uint64_t>(3).put<uint32_t>(8).put<uint64_t>(0);
  out.str("v").put<uint32_t>(1).put<uint64_t>(2).put<uint32_t>(0).put<uint64_t>(128);
  out.pad(32).text += std::string(3 * 34, 'q') + std::string(26, '\0');
  return out.put(1.5f).put(2.5f).text;
}

TEST(Gguf, ReadsEveryTypeOfValue) {
  for (const uint32_t version : {2u, 3u}) {
    const std::string file = good_file(version);
    const GgufHeader header = parse(file);
    EXPECT_EQ(header.integer("u8"), 200);
    EXPECT_EQ(header.integer("i8"), -5);
    EXPECT_EQ(header.integer("u16"), 60000);
    EXPECT_EQ(header.integer("i16"), -3000);
    EXPECT_EQ(header.integer("u32"), 4000000000);
    EXPECT_EQ(header.integer("i32"), -7);
    EXPECT_EQ(header.number("f32"), 1e-5);
    EXPECT_EQ(header.boolean("bool"), true);
    EXPECT_EQ(header.string("string"), "text");
    EXPECT_THAT(*header.strings("strings"), ElementsAre("a", ""));
    EXPECT_THAT(*header.numbers("floats"), ElementsAre(0.5, -2.0));
    EXPECT_EQ(header.integer("u64"), int64_t{1} << 40);
    EXPECT_EQ(header.integer("i64"), -1);
    EXPECT_EQ(header.number("f64"), 0.1);
    EXPECT_EQ(header.number("u8"), 200.0);
    EXPECT_EQ(header.integer("absent"), std::nullopt);
    EXPECT_EQ(header.strings("absent"), nullptr);
    ASSERT_EQ(header.tensors.size(), 2u);
    EXPECT_EQ(header.tensors[0].shape, (std::vector<int64_t>{3, 32}));
    EXPECT_EQ(header.tensors[0].bytes, 102u);
    EXPECT_EQ(header.tensors[1].offset, file.size() - 8);
    for (const char* key : {"f32", "bool", "string", "strings"}) EXPECT_THROW(header.integer(key), Error) << key;
    EXPECT_THROW(header.number("string"), Error);
    EXPECT_THROW(header.boolean("u8"), Error);
    EXPECT_THROW(header.string("u8"), Error);
    EXPECT_THROW(header.strings("floats"), Error);
    EXPECT_THROW(header.numbers("string"), Error);
  }
}

// Written by the gguf package (tests/oracles/make_fuzz_corpus.py).
TEST(Gguf, ReadsAFileOfAnotherWriter) {
  const GgufFile file(RETORT_SOURCE_DIR "/tests/fuzz/corpus/gguf/small.gguf");
  const GgufHeader& header = file.header();
  EXPECT_EQ(header.string("general.architecture"), "llama");
  EXPECT_EQ(header.integer("llama.embedding_length"), 32);
  EXPECT_EQ(header.number("llama.attention.layer_norm_rms_epsilon"), 1e-5);
  EXPECT_THAT(*header.strings("tokenizer.ggml.tokens"), ElementsAre("a", "b", "<s>"));
  EXPECT_THAT(*header.integers("tokenizer.ggml.token_type"), ElementsAre(1, 1, 3));
  EXPECT_EQ(header.integer("x.i8"), -3);
  EXPECT_EQ(header.integer("x.u64"), int64_t{1} << 40);
  EXPECT_EQ(header.number("x.f64"), 0.5);
  EXPECT_EQ(header.boolean("x.flag"), true);
  ASSERT_EQ(header.tensors.size(), 2u);
  EXPECT_EQ(header.tensors[0].shape, (std::vector<int64_t>{4, 32}));
  EXPECT_EQ(header.tensors[1].shape, (std::vector<int64_t>{2, 32}));
  EXPECT_EQ(header.tensors[1].bytes, 36u);
}

TEST(Gguf, AFileCutAtAnyByteIsRefused) {
  const std::string file = good_file();
  ASSERT_EQ(error_of(file), "no error");
  for (size_t size = 0; size < file.size(); ++size) EXPECT_NE(error_of(file.substr(0, size)), "no error") << size;
}

TEST(Gguf, HostileHeadersAreRefusedWithTheReason) {
  const auto one = [](const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset, size_t data) {
    Bytes out = head(1, 0);
    out.str("t").put(static_cast<uint32_t>(dims.size()));
    for (const uint64_t size : dims) out.put(size);
    out.put(type).put(offset).pad(32).text.append(data, 'x');
    return error_of(out.text);
  };
  EXPECT_EQ(one({32, 2}, 2, 0, 36), "no error");
  EXPECT_THAT(one({32, 2}, 2, 0, 35), HasSubstr("beyond the end"));
  EXPECT_THAT(one({32, 2}, 99, 0, 64), HasSubstr("unknown type 99"));
  EXPECT_THAT(one({31, 2}, 2, 0, 64), HasSubstr("whole Q4_0 blocks"));
  EXPECT_THAT(one({1ull << 40, 1ull << 40}, 0, 0, 64), HasSubstr("overflows"));
  EXPECT_THAT(one({1ull << 62}, 0, 0, 64), HasSubstr("overflows"));
  EXPECT_THAT(one({1ull << 63}, 0, 0, 64), HasSubstr("the size"));
  EXPECT_THAT(one({0}, 0, 0, 64), HasSubstr("the size 0"));
  EXPECT_THAT(one({}, 0, 0, 64), HasSubstr("0 dimensions"));
  EXPECT_THAT(one({1, 1, 1, 1, 1}, 0, 0, 64), HasSubstr("5 dimensions"));
  EXPECT_THAT(one({1}, 0, 32, 64), HasSubstr("gap"));
  EXPECT_THAT(one({1}, 0, UINT64_MAX - 31, 64), HasSubstr("gap"));

  EXPECT_THAT(error_of(head(0, 0, 1).text), HasSubstr("version 1"));
  EXPECT_THAT(error_of(head(0, 0, 0x03000000).text), HasSubstr("big-endian"));
  EXPECT_THAT(error_of(std::string("GGML0000")), HasSubstr("GGUF"));
  EXPECT_THAT(error_of(head(UINT64_MAX, 0).text), HasSubstr("tensors, more than"));
  EXPECT_THAT(error_of(head(0, UINT64_MAX).text), HasSubstr("metadata entries, more than"));
  EXPECT_THAT(error_of(head(0, 1).str("key").put<uint32_t>(13).put<uint64_t>(0).text), HasSubstr("unknown type 13"));
  EXPECT_THAT(error_of(head(0, 1).str("key").put<uint32_t>(7).put<uint8_t>(2).text), HasSubstr("boolean"));
  EXPECT_THAT(error_of(head(0, 1).put<uint64_t>(UINT64_MAX).put<uint64_t>(0).text), HasSubstr("ends within"));
  const auto array = [](uint32_t type, uint64_t count) {
    return error_of(head(0, 1).str("key").put<uint32_t>(9).put(type).put(count).put<uint64_t>(0).text);
  };
  EXPECT_THAT(array(9, 1), HasSubstr("list of lists"));
  EXPECT_THAT(array(6, UINT64_MAX / 2), HasSubstr("list elements, more than"));
  EXPECT_THAT(array(8, 3), HasSubstr("list elements, more than"));
  EXPECT_THAT(
      error_of(head(0, 2).str("k").put<uint32_t>(0).put<uint8_t>(1).str("k").put<uint32_t>(0).put<uint64_t>(1).text),
      HasSubstr("given twice"));
  for (const uint32_t alignment : {0u, 3u, 1u << 31})
    EXPECT_THAT(error_of(head(0, 1).str("general.alignment").put<uint32_t>(4).put(alignment).text),
                HasSubstr("power of two"));

  const auto two = [](uint64_t second) {
    Bytes out = head(2, 0);
    out.str("a").put<uint32_t>(1).put<uint64_t>(8).put<uint32_t>(0).put<uint64_t>(0);
    out.str(second == 1 ? "a" : "b").put<uint32_t>(1).put<uint64_t>(8).put<uint32_t>(0).put(second);
    out.pad(32).text.append(128, 'x');
    return error_of(out.text);
  };
  EXPECT_EQ(two(32), "no error");
  EXPECT_THAT(two(0), HasSubstr("overlaps"));
  EXPECT_THAT(two(64), HasSubstr("gap"));
  EXPECT_THAT(two(1), HasSubstr("given twice"));
}

TEST(GgufWriter, WritesTheBytesOfTheFormat) {
  const std::string file = good_file();
  const GgufHeader header = parse(file);
  const TempDir dir;
  GgufWriter writer(dir.path() / "x.gguf", header);
  const auto bytes = std::as_bytes(std::span(file));
  writer.append(bytes.subspan(header.tensors[0].offset, 50));
  EXPECT_THROW(GgufWriter(dir.path() / "y.gguf", header).finish(), Error);
  writer.append(bytes.subspan(header.tensors[0].offset + 50, 52));
  EXPECT_THROW(writer.append(bytes.first(9)), Error);
  writer.append(bytes.subspan(header.tensors[1].offset));
  EXPECT_THROW(writer.append(bytes.first(1)), Error);
  writer.finish();
  EXPECT_EQ(read_text_file(dir.path() / "x.gguf"), file + std::string(24, '\0'));
}

TEST(GgmlTypes, AreFoundByNumberAndName) {
  EXPECT_EQ(find_ggml_type(14)->name, "Q6_K");
  EXPECT_EQ(find_ggml_type("q4_0")->number, 2u);
  EXPECT_EQ(find_ggml_type(4), nullptr);
  EXPECT_EQ(find_ggml_type("q9"), nullptr);
}

TEST(Interleaving, FollowsTheDefinition) {  // reshape(heads, 2, half, cols).swapaxes(1, 2)
  EXPECT_THAT(interleaved_order(8, 4), ElementsAre(0, 2, 1, 3, 4, 6, 5, 7));
  EXPECT_THAT(interleaved_order(6, 6), ElementsAre(0, 3, 1, 4, 2, 5));
  const auto order = interleaved_order(32, 8);
  for (int64_t row = 0; row < 32; ++row) EXPECT_EQ(order[static_cast<size_t>(interleaved_row(row, 8))], row);
}

// A GGUF file of a tiny model, as an exporter would write it; `edit` changes the header before it is written.
void write_gguf(
    const fs::path& path, const TinyModel& model, const char* matrix_type,
    const std::function<void(GgufHeader&)>& edit = [](GgufHeader&) {}) {
  const ModelConfig c = parse_config(testing::tiny_config(model), "tiny");
  const std::string arch(c.family->gguf_architecture);
  const auto weights = testing::tiny_weights(model);
  GgufHeader header;
  const auto u32 = [&](const std::string& key, int64_t value) {
    header.metadata.emplace_back(arch + "." + key, static_cast<uint32_t>(value));
  };
  header.metadata.emplace_back("general.architecture", arch);
  u32("context_length", c.context_length);
  u32("embedding_length", c.hidden_size);
  u32("feed_forward_length", c.ffn_size);
  u32("block_count", c.layers);
  u32("attention.head_count", c.heads);
  u32("attention.head_count_kv", c.kv_heads);
  u32("attention.key_length", c.head_dim);
  u32("attention.value_length", c.head_dim);
  header.metadata.emplace_back(arch + ".attention.layer_norm_rms_epsilon", static_cast<float>(c.norm_eps));
  if (model.window > 0) u32("attention.sliding_window", model.window);
  header.metadata.emplace_back("tokenizer.ggml.eos_token_id", uint32_t{257});
  for (const ExpectedTensor& t : expected_tensors(c)) {
    const uint32_t type = find_ggml_type(t.shape.size() == 2 ? matrix_type : "F32")->number;
    header.tensors.push_back({gguf_name(*t.rule, t.layer), type, t.shape, 0, 0});
  }
  edit(header);
  std::ofstream out(path, std::ios::binary);
  {
    GgufWriter writer(path, header);
    for (const ExpectedTensor& t : expected_tensors(c)) {
      const bool rotary = t.rule->role == Role::kQuery || t.rule->role == Role::kKey;
      std::vector<float> values = weights.at(t.name);
      const auto cols = static_cast<int64_t>(values.size()) / t.shape[0];
      if (rotary && c.family->gguf_interleaved_rope) {
        const auto order = interleaved_order(t.shape[0], c.head_dim);
        for (int64_t r = 0; r < t.shape[0]; ++r)
          std::copy_n(weights.at(t.name).begin() + order[static_cast<size_t>(r)] * cols, cols,
                      values.begin() + r * cols);
      }
      const std::string type = t.shape.size() == 2 ? matrix_type : "F32";
      if (type == "Q8_0") {
        QuantizedMatrix m = make_quantized(parse_scheme("q8_0"), t.shape[0], cols);
        std::fill(m.scales.begin(), m.scales.end(), 0x1p-8f);
        for (size_t i = 0; i < values.size(); ++i)
          m.codes[i] = static_cast<uint8_t>(std::clamp(values[i] * 256.0f, -128.0f, 127.0f) + 128);
        writer.append(packed_format("q8_0").pack(m)[0].bytes);
      } else {
        const DType dtype = type == "F32" ? DType::kF32 : type == "F16" ? DType::kF16 : DType::kBF16;
        std::vector<std::byte> bytes(values.size() * size_of(dtype));
        encode_from_f32(dtype, values, bytes);
        writer.append(bytes);
      }
    }
    writer.finish();
  }
}

std::string open_error(const fs::path& path) {
  return error_of([&] { open_model(path); });
}

TEST(GgufModel, ReadsEveryFamilyInHuggingFaceOrder) {
  for (const Family& family : families()) {
    TinyModel model{.model_type = std::string(family.model_type), .extra = Json::object()};
    if (family.window == Family::Window::kEveryLayer) model.window = 16;
    if (family.attention_bias) model.extra["attention_bias"] = true;
    for (const char* type : {"F32", "F16", "BF16"}) {
      model.dtype = std::string(type) == "F32" ? DType::kF32 : std::string(type) == "F16" ? DType::kF16 : DType::kBF16;
      const TempDir dir;
      write_gguf(dir.path() / "m.gguf", model, type);
      const auto source = open_model(dir.path() / "m.gguf");
      EXPECT_EQ(source->container(), "gguf");
      EXPECT_EQ(source->config().family, &family) << family.model_type;
      EXPECT_EQ(source->config().windows, parse_config(testing::tiny_config(model), "tiny").windows);
      EXPECT_EQ(source->config().norm_eps, 1e-5);
      EXPECT_THAT(source->config().eos_ids, ElementsAre(257));
      EXPECT_THAT(source->problems(), IsEmpty());
      const auto weights = testing::tiny_weights(model);
      ASSERT_EQ(source->tensors().size(), weights.size());
      for (const ModelTensor& tensor : source->tensors())
        EXPECT_EQ(source->read_f32(tensor), weights.at(tensor.name)) << family.model_type << " " << tensor.name;
      const ModelTensor& query = source->at("model.layers.1.self_attn.q_proj.weight");
      EXPECT_EQ(query.scheme.dense, model.dtype);
      std::vector<float> rows(static_cast<size_t>(3 * query.cols()));
      source->read_f32(query, 5, 3, rows);
      EXPECT_TRUE(std::equal(rows.begin(), rows.end(), weights.at(query.name).begin() + 5 * query.cols()));
    }
  }
}

TEST(GgufModel, ReadsQuantizedRowsInHuggingFaceOrder) {
  const TempDir dir;
  const TinyModel model{.extra = Json::object()};
  write_gguf(dir.path() / "m.gguf", model, "Q8_0");
  const auto source = open_model(dir.path() / "m.gguf");
  const auto weights = testing::tiny_weights(model);
  for (const char* name : {"model.layers.0.self_attn.k_proj.weight", "model.layers.0.mlp.down_proj.weight"}) {
    const ModelTensor& tensor = source->at(name);
    EXPECT_EQ(name_of(tensor.scheme), "q8_0");
    const QuantizedMatrix m = source->read_quantized(tensor);
    const std::vector<float> values = source->read_f32(tensor);
    std::vector<float> dequantized(values.size());
    dequantize_rows(m, 0, tensor.rows(), dequantized);
    EXPECT_EQ(values, dequantized);
    for (size_t i = 0; i < values.size(); ++i) {
      const float clamped = std::clamp(weights.at(name)[i], -0.5f, 127.0f / 256);
      ASSERT_NEAR(values[i], clamped, 0x1p-8f) << name << " " << i;
    }
  }
}

TEST(GgufModel, RefusesByNameWhatItDoesNotRead) {
  const TempDir dir;
  const fs::path path = dir.path() / "m.gguf";
  const auto with = [&](const std::function<void(GgufHeader&)>& edit) {
    write_gguf(path, {.extra = Json::object()}, "F32", edit);
    return open_error(path);
  };
  const auto set = [&](const char* key, GgufValue value) {
    return with([&](GgufHeader& header) {
      std::erase_if(header.metadata, [&](const auto& entry) { return entry.first == key; });
      header.metadata.emplace_back(key, value);
    });
  };
  const auto drop = [&](const char* key) {
    return with([&](GgufHeader& h) { std::erase_if(h.metadata, [&](const auto& e) { return e.first == key; }); });
  };
  EXPECT_EQ(with([](GgufHeader&) {}), "no error");
  EXPECT_THAT(set("general.architecture", std::string("mamba")), HasSubstr("mamba"));
  EXPECT_THAT(set("llama.expert_count", uint32_t{8}), HasSubstr("experts"));
  EXPECT_THAT(set("llama.rope.dimension_count", uint32_t{8}), HasSubstr("rotary"));
  EXPECT_THAT(set("llama.rope.scaling.type", std::string("ntk")), HasSubstr("ntk"));
  EXPECT_THAT(set("llama.rope.scaling.type", std::string("longrope")), HasSubstr("short_factor"));
  EXPECT_THAT(set("llama.attention.value_length", uint32_t{8}), HasSubstr("different lengths"));
  EXPECT_THAT(set("llama.attention.head_count", uint32_t{0}), HasSubstr("head_count"));
  EXPECT_THAT(set("llama.block_count", uint32_t{4}), HasSubstr("blk.3.attn_norm.weight"));
  EXPECT_THAT(set("llama.block_count", std::string("4")), HasSubstr("llama.block_count"));
  EXPECT_THAT(set("split.count", uint16_t{2}), HasSubstr("split"));
  EXPECT_THAT(drop("llama.context_length"), HasSubstr("llama.context_length"));
  EXPECT_THAT(drop("general.architecture"), HasSubstr("general.architecture"));
  EXPECT_THAT(drop("llama.attention.layer_norm_rms_epsilon"), HasSubstr("epsilon"));
  EXPECT_THAT(with([](GgufHeader& h) { h.tensors[3].shape = {64, 32}; }), HasSubstr("blk.0.attn_k.weight"));
  EXPECT_THAT(with([](GgufHeader& h) { h.tensors[3].name = "other"; }), HasSubstr("blk.0.attn_k.weight"));
  EXPECT_EQ(set("llama.rope.scaling.type", std::string("linear")), "no error");
}

TEST(GgufModel, OfADirectoryIsTheOneFileInIt) {
  const TempDir dir;
  write_gguf(dir.path() / "a.gguf", {.extra = Json::object()}, "F32", [](GgufHeader&) {});
  EXPECT_EQ(open_error(dir.path()), "no error");
  fs::copy_file(dir.path() / "a.gguf", dir.path() / "b.gguf");
  EXPECT_THAT(open_error(dir.path()), HasSubstr("holds 2 GGUF models. Give the path of one"));
  fs::remove(dir.path() / "a.gguf");
  fs::rename(dir.path() / "b.gguf", dir.path() / "b-00002-of-00003.gguf");
  EXPECT_THAT(open_error(dir.path()), HasSubstr("the first file of the split model is missing"));
}

TEST(GgufModel, DividesFrequenciesByTheStoredFactors) {
  const std::vector<double> factors{1, 1, 2, 4, 8, 8, 8, 8};
  GgufHeader header;
  header.metadata = {{"general.architecture", std::string("llama")},
                     {"llama.embedding_length", uint32_t{64}},
                     {"llama.feed_forward_length", uint32_t{160}},
                     {"llama.block_count", uint32_t{1}},
                     {"llama.attention.head_count", uint32_t{4}},
                     {"llama.context_length", uint32_t{64}},
                     {"llama.rope.freq_base", 5e5f},
                     {"llama.attention.layer_norm_rms_epsilon", 1e-6f}};
  header.tensors = {{"token_embd.weight", 0, {32, 64}, 0, 0}};
  const ModelConfig plain = parse_config(config_of_gguf(header, {}, "x"), "x");
  const ModelConfig divided = parse_config(config_of_gguf(header, {factors, {}, {}}, "x"), "x");
  EXPECT_TRUE(plain.tied_embeddings);
  EXPECT_EQ(plain.rope.theta, 5e5);
  for (size_t i = 0; i < factors.size(); ++i)
    EXPECT_FLOAT_EQ(rope_frequencies(divided)[i] * static_cast<float>(factors[i]), rope_frequencies(plain)[i]) << i;
  EXPECT_THROW(parse_config(config_of_gguf(header, {{1, 2}, {}, {}}, "x"), "x"), Error);
  EXPECT_THROW(parse_config(config_of_gguf(header, {{1, 1, 2, 4, 8, 8, 8, -8}, {}, {}}, "x"), "x"), Error);
}

TEST(GgufModel, GivesTheVocabulary) {
  const auto array = [](uint32_t type, auto values) {
    auto list = std::make_shared<GgufArray>();
    list->type = type;
    list->values = std::move(values);
    return list;
  };
  GgufHeader header;
  header.metadata = {{"tokenizer.ggml.model", std::string("llama")},
                     {"tokenizer.ggml.tokens", array(8, std::vector<std::string>{"<unk>", "<s>", "a"})},
                     {"tokenizer.ggml.scores", array(6, std::vector<double>{0, 0, -1.5})},
                     {"tokenizer.ggml.token_type", array(5, std::vector<int64_t>{2, 3, 1})},
                     {"tokenizer.ggml.bos_token_id", uint32_t{1}},
                     {"tokenizer.ggml.padding_token_id", uint32_t{0xffffffff}}};
  const Vocabulary v = vocabulary_of_gguf(header, "x");
  EXPECT_EQ(v.kind, Vocabulary::Kind::kSentencePiece);
  ASSERT_EQ(v.tokens.size(), 3u);
  EXPECT_EQ(v.tokens[1].type, TokenType::kControl);
  EXPECT_EQ(v.tokens[2].score, -1.5f);
  EXPECT_TRUE(v.add_bos);
  EXPECT_TRUE(v.add_space_prefix);
  EXPECT_EQ(v.bos, 1);
  EXPECT_EQ(v.padding, std::nullopt);
  const auto with = [&](size_t entry, GgufValue value) {
    GgufHeader damaged = header;
    damaged.metadata[entry].second = std::move(value);
    return error_of([&] { vocabulary_of_gguf(damaged, "x"); });
  };
  EXPECT_THAT(with(0, std::string("bert")), HasSubstr("bert"));
  EXPECT_THAT(with(1, uint32_t{1}), HasSubstr("tokenizer.ggml.tokens"));
  EXPECT_THAT(with(2, array(6, std::vector<double>{0})), HasSubstr("equally many"));
  EXPECT_THAT(with(3, array(5, std::vector<int64_t>{2, 3, 7})), HasSubstr("token type 7"));
  EXPECT_THAT(with(4, uint32_t{3}), HasSubstr("special token 3"));
}

// llama.cpp's own conversion of a model that also lies there in the Hugging Face layout.
TEST(SharedGguf, EqualsTheHuggingFaceModel) {
  const fs::path gguf = kShared / "weights/stories260K/stories260K.gguf", hf = kShared / "weights/stories260K-hf";
  if (!fs::exists(gguf)) GTEST_SKIP() << "the shared test models are absent: " << gguf;
  const auto a = open_model(gguf), b = open_model(hf);
  for (const ModelTensor& tensor : b->tensors()) EXPECT_EQ(a->read_f32(a->at(tensor.name)), b->read_f32(tensor));
  EXPECT_EQ(a->config().norm_eps, b->config().norm_eps);
  EXPECT_EQ(a->config().rope.theta, b->config().rope.theta);
  EXPECT_EQ(a->config().eos_ids, b->config().eos_ids);
}

// Files of llama-quantize: types that are not ours are read as float32.
TEST(SharedGguf, ReadsTheFilesOfLlamaQuantize) {
  const fs::path hf = kShared / "weights/books-5.8m";
  if (!fs::exists(hf)) GTEST_SKIP() << "the shared test models are absent: " << hf;
  const auto reference = open_model(hf);
  for (const char* name : {"Q4_0", "Q4_K_M", "Q6_K", "Q3_K_M", "Q2_K"}) {
    const auto source = open_model(kShared / "quantized/gguf" / (std::string("books-5.8m-") + name + ".gguf"));
    for (const ModelTensor& tensor : source->tensors()) {
      const auto a = source->read_f32(tensor), b = reference->read_f32(reference->at(tensor.name));
      double error = 0, norm = 0;
      for (size_t i = 0; i < a.size(); ++i) {
        error += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
      }
      EXPECT_LT(std::sqrt(error / norm), 0.4) << name << " " << tensor.name;  // unrelated matrices: 1.4
    }
  }
  EXPECT_THAT(open_error(kShared / "quantized/gguf/books-5.8m.imatrix.gguf"), HasSubstr("not a model"));
}

}  // namespace
}  // namespace retort
