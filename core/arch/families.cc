// The one list of families and of their tensors.
#include <array>

#include "core/arch/family.h"

namespace retort {
namespace {

bool always(const ModelConfig&) { return true; }
bool untied(const ModelConfig& c) { return !c.tied_embeddings; }
bool qkv_bias(const ModelConfig& c) { return c.qkv_bias; }
bool output_bias(const ModelConfig& c) { return c.output_bias; }
bool mlp_bias(const ModelConfig& c) { return c.mlp_bias; }
bool qk_norm(const ModelConfig& c) { return c.family->qk_norm; }

constexpr Part kW = Part::kWeight, kB = Part::kBias;

// The Llama layout: pre-norm attention with rotary embeddings, pre-norm gated FFN. In the order of a forward pass.
constexpr std::array kLlamaTensors{
    TensorRule{Role::kEmbedding, kW, "model.embed_tokens.weight", "token_embd.weight", Dim::kVocab, Dim::kHidden, always},
    TensorRule{Role::kAttentionNorm, kW, "model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", Dim::kHidden, Dim::kNone, always},
    TensorRule{Role::kQuery, kW, "model.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight", Dim::kQueries, Dim::kHidden, always, Input::kAttentionNorm},
    TensorRule{Role::kQuery, kB, "model.layers.{}.self_attn.q_proj.bias", "blk.{}.attn_q.bias", Dim::kQueries, Dim::kNone, qkv_bias},
    TensorRule{Role::kKey, kW, "model.layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight", Dim::kKeyValues, Dim::kHidden, always, Input::kAttentionNorm},
    TensorRule{Role::kKey, kB, "model.layers.{}.self_attn.k_proj.bias", "blk.{}.attn_k.bias", Dim::kKeyValues, Dim::kNone, qkv_bias},
    TensorRule{Role::kValue, kW, "model.layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight", Dim::kKeyValues, Dim::kHidden, always, Input::kAttentionNorm},
    TensorRule{Role::kValue, kB, "model.layers.{}.self_attn.v_proj.bias", "blk.{}.attn_v.bias", Dim::kKeyValues, Dim::kNone, qkv_bias},
    TensorRule{Role::kQueryNorm, kW, "model.layers.{}.self_attn.q_norm.weight", "blk.{}.attn_q_norm.weight", Dim::kHeadDim, Dim::kNone, qk_norm},
    TensorRule{Role::kKeyNorm, kW, "model.layers.{}.self_attn.k_norm.weight", "blk.{}.attn_k_norm.weight", Dim::kHeadDim, Dim::kNone, qk_norm},
    TensorRule{Role::kAttentionOutput, kW, "model.layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight", Dim::kHidden, Dim::kQueries, always, Input::kAttention},
    TensorRule{Role::kAttentionOutput, kB, "model.layers.{}.self_attn.o_proj.bias", "blk.{}.attn_output.bias", Dim::kHidden, Dim::kNone, output_bias},
    TensorRule{Role::kFfnNorm, kW, "model.layers.{}.post_attention_layernorm.weight", "blk.{}.ffn_norm.weight", Dim::kHidden, Dim::kNone, always},
    TensorRule{Role::kGate, kW, "model.layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight", Dim::kFfn, Dim::kHidden, always, Input::kFfnNorm},
    TensorRule{Role::kGate, kB, "model.layers.{}.mlp.gate_proj.bias", "blk.{}.ffn_gate.bias", Dim::kFfn, Dim::kNone, mlp_bias},
    TensorRule{Role::kUp, kW, "model.layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight", Dim::kFfn, Dim::kHidden, always, Input::kFfnNorm},
    TensorRule{Role::kUp, kB, "model.layers.{}.mlp.up_proj.bias", "blk.{}.ffn_up.bias", Dim::kFfn, Dim::kNone, mlp_bias},
    TensorRule{Role::kDown, kW, "model.layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", Dim::kHidden, Dim::kFfn, always, Input::kFfn},
    TensorRule{Role::kDown, kB, "model.layers.{}.mlp.down_proj.bias", "blk.{}.ffn_down.bias", Dim::kHidden, Dim::kNone, mlp_bias},
    TensorRule{Role::kFinalNorm, kW, "model.norm.weight", "output_norm.weight", Dim::kHidden, Dim::kNone, always},
    TensorRule{Role::kHead, kW, "lm_head.weight", "output.weight", Dim::kVocab, Dim::kHidden, untied},
};

// TinyLlama and SmolLM2 say model_type "llama".
constexpr std::array kFamilies{
    Family{.model_type = "llama", .architecture = "LlamaForCausalLM", .gguf_architecture = "llama",
           .gguf_interleaved_rope = true, .qk_norm = false, .always_qkv_bias = false,
           .attention_bias = true, .mlp_bias = true,
           .window = Family::Window::kNever, .tensors = kLlamaTensors},
    Family{.model_type = "mistral", .architecture = "MistralForCausalLM", .gguf_architecture = "llama",
           .gguf_interleaved_rope = true, .qk_norm = false, .always_qkv_bias = false,
           .attention_bias = false, .mlp_bias = false,
           .window = Family::Window::kEveryLayer, .tensors = kLlamaTensors},
    Family{.model_type = "qwen2", .architecture = "Qwen2ForCausalLM", .gguf_architecture = "qwen2",
           .gguf_interleaved_rope = false, .qk_norm = false, .always_qkv_bias = true,
           .attention_bias = false, .mlp_bias = false,
           .window = Family::Window::kUpperLayers, .tensors = kLlamaTensors},
    Family{.model_type = "qwen3", .architecture = "Qwen3ForCausalLM", .gguf_architecture = "qwen3",
           .gguf_interleaved_rope = false, .qk_norm = true, .always_qkv_bias = false,
           .attention_bias = true, .mlp_bias = false,
           .window = Family::Window::kUpperLayers, .tensors = kLlamaTensors},
};

}  // namespace

std::span<const Family> families() { return kFamilies; }

}  // namespace retort
