// A random model of any family, small enough for a test: in memory or as a Hugging Face directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/arch/family.h"
#include "core/base/json.h"

namespace retort::testing {

struct TinyModel {
  std::string model_type = "llama";
  int64_t vocab_size = 264, hidden_size = 64, ffn_size = 160, layers = 3;
  int64_t heads = 4, kv_heads = 2, head_dim = 16, context_length = 128;
  int64_t window = 0;  // not 0: sliding_window, in the layers that the family gives one
  bool tied = false;
  DType dtype = DType::kF32;
  uint64_t seed = 1;
  Json extra = Json::object();  // further keys of config.json: {"attention_bias", true}, ...
};

// config.json as transformers 5 writes it.
Json tiny_config(const TinyModel& model);
// Weights by Hugging Face name, rounded to model.dtype: normal, 1/sqrt(cols) wide; norms around 1.
std::map<std::string, std::vector<float>> tiny_weights(const TinyModel& model);
// A byte-level BPE of the 256 bytes (no merges), "<s>" = 256 and "</s>" = 257.
Json tiny_tokenizer();
// Writes config.json, model.safetensors, tokenizer.json and tokenizer_config.json; `directory` is made.
void write_tiny_model(const std::filesystem::path& directory, const TinyModel& model);

// A fresh directory below the build's temporary one, named after the running test, removed by the destructor.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Deterministic numbers for tests: splitmix64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next();
  int64_t below(int64_t limit) { return static_cast<int64_t>(next() % static_cast<uint64_t>(limit)); }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }  // [0, 1)
  float normal();

 private:
  uint64_t state_;
};

}  // namespace retort::testing
