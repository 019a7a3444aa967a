#include "tests/support/tiny_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <fstream>
#include <numbers>

namespace retort::testing {
namespace {

std::string_view torch_name(DType type) {
  return type == DType::kF32 ? "float32" : type == DType::kF16 ? "float16" : "bfloat16";
}

// Written by hand, so that tests of the readers share nothing with our writers.
void write_safetensors(const std::filesystem::path& path, const TinyModel& model, const ModelConfig& config) {
  const auto weights = tiny_weights(model);
  Json header = Json::object();
  std::string data;
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    const std::vector<float>& values = weights.at(tensor.name);
    const size_t begin = data.size();
    data.resize(begin + values.size() * size_of(model.dtype));
    encode_from_f32(model.dtype, values, std::as_writable_bytes(std::span(data)).subspan(begin));
    header[tensor.name] = {
        {"dtype", safetensors_name(model.dtype)}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof length);
  file << text << data;
}

// GPT-2's printable stand-in for each byte.
std::string byte_symbol(int byte) {
  const auto printable = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  int code = byte;
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

}  // namespace

Json tiny_config(const TinyModel& model) {
  const Family* family = find_family(model.model_type);
  Json json = {{"architectures", Json::array({std::string(family->architecture)})},
               {"model_type", model.model_type},
               {"vocab_size", model.vocab_size},
               {"hidden_size", model.hidden_size},
               {"intermediate_size", model.ffn_size},
               {"num_hidden_layers", model.layers},
               {"num_attention_heads", model.heads},
               {"num_key_value_heads", model.kv_heads},
               {"head_dim", model.head_dim},
               {"max_position_embeddings", model.context_length},
               {"hidden_act", "silu"},
               {"rms_norm_eps", 1e-5},
               {"rope_parameters", {{"rope_theta", 10000.0}, {"rope_type", "default"}}},
               {"tie_word_embeddings", model.tied},
               {"dtype", torch_name(model.dtype)},
               {"bos_token_id", 256},
               {"eos_token_id", 257}};
  if (model.window > 0) json["sliding_window"] = model.window;
  if (model.window > 0 && family->window == Family::Window::kUpperLayers) {
    json["use_sliding_window"] = true;
    json["max_window_layers"] = model.layers / 2;
  }
  json.update(model.extra);
  return json;
}

std::map<std::string, std::vector<float>> tiny_weights(const TinyModel& model) {
  Random random(model.seed);
  std::map<std::string, std::vector<float>> weights;
  for (const ExpectedTensor& tensor : expected_tensors(parse_config(tiny_config(model), "tiny model"))) {
    const bool matrix = tensor.shape.size() == 2;
    const bool norm = !matrix && tensor.rule->part == Part::kWeight;
    const float width = matrix ? 1.0f / std::sqrt(static_cast<float>(tensor.shape[1])) : 0.1f;
    std::vector<float> values(static_cast<size_t>(tensor.shape[0] * (matrix ? tensor.shape[1] : 1)));
    for (float& value : values) value = (norm ? 1.0f : 0.0f) + width * random.normal();
    std::vector<std::byte> stored(values.size() * size_of(model.dtype));
    encode_from_f32(model.dtype, values, stored);
    decode_to_f32(model.dtype, stored, values);
    weights.emplace(tensor.name, std::move(values));
  }
  return weights;
}

Json tiny_tokenizer() {
  Json vocabulary = Json::object();
  for (int byte = 0; byte < 256; ++byte) vocabulary[byte_symbol(byte)] = byte;
  Json added = Json::array();
  for (int i = 0; i < 2; ++i)
    added.push_back({{"id", 256 + i},
                     {"content", i == 0 ? "<s>" : "</s>"},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocabulary},
            {"merges", Json::array()}}}};
}

void write_tiny_model(const std::filesystem::path& directory, const TinyModel& model) {
  std::filesystem::create_directories(directory);
  const Json config = tiny_config(model);
  write_safetensors(directory / "model.safetensors", model, parse_config(config, "tiny model"));
  std::ofstream(directory / "config.json") << config.dump(2);
  std::ofstream(directory / "tokenizer.json") << tiny_tokenizer().dump(1);
  const Json settings = {{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"tokenizer_class", "PreTrainedTokenizerFast"}};
  std::ofstream(directory / "tokenizer_config.json") << settings.dump(2);
}

TempDir::TempDir() {
  static std::atomic<int> counter{0};
  const ::testing::TestInfo* test = ::testing::UnitTest::GetInstance()->current_test_info();
  std::string name = test ? std::string(test->test_suite_name()) + "." + test->name() : "suite";
  for (char& c : name)
    if (c == '/') c = '_';
  path_ = std::filesystem::temp_directory_path() /
          ("retort_" + name + "_" + std::to_string(getpid()) + "_" + std::to_string(counter++));
  std::filesystem::create_directories(path_);
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

uint64_t Random::next() {
  uint64_t z = state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

float Random::normal() {  // Box and Muller
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
  return static_cast<float>(radius * std::cos(2.0 * std::numbers::pi * uniform()));
}

}  // namespace retort::testing
