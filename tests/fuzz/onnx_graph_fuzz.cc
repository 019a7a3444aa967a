// Graphs as verify evaluates them: any graph gives as many logits as were asked for, or an Error, in bounded time and
// memory. An input is the length of model.onnx as 32 bits, model.onnx and model.onnx.data, of a model with this
// configuration.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>

#include "core/base/error.h"
#include "core/base/json.h"
#include "export/verify/onnx_evaluation.h"

namespace {

// As in tests/oracles/make_onnx_graph_corpus.py.
constexpr std::string_view kConfig = R"({"model_type": "llama", "vocab_size": 32, "hidden_size": 32,
  "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
  "max_position_embeddings": 16, "rms_norm_eps": 1e-6, "hidden_act": "silu"})";
constexpr int32_t kIds[] = {1, 30, 7};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static retort::ThreadPool threads(1);
  static retort::ProgressSink silent;
  static retort::Context context{threads, silent};
  static const retort::ModelConfig config = retort::parse_config(retort::parse_json(kConfig, "fuzz"), "fuzz");
  uint32_t length = 0;
  if (size < sizeof length) return 0;
  std::memcpy(&length, data, sizeof length);
  const auto rest = std::as_bytes(std::span(data, size)).subspan(sizeof length);
  const size_t graph = std::min<size_t>(length, rest.size());
  try {
    const auto logits = retort::evaluate_onnx({"fuzz", rest.first(graph), rest.subspan(graph)}, config, kIds, context);
    if (logits.size() != std::size(kIds) * static_cast<size_t>(config.vocab_size)) std::abort();
  } catch (const retort::Error&) {
  }
  return 0;
}
