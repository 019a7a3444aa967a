#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "core/arch/joined_family.h"
#include "core/base/error.h"

namespace retort {
namespace {

Json tiny(const char* model_type) {
  return Json{{"model_type", model_type}, {"vocab_size", 64},
              {"hidden_size", 32},        {"intermediate_size", 48},
              {"num_hidden_layers", 3},   {"num_attention_heads", 4},
              {"num_key_value_heads", 2}, {"max_position_embeddings", 128}};
}

TEST(Family, EveryRowGivesUniqueNamesThatMatchBack) {
  for (const Family& family : families()) {
    const ModelConfig config = parse_config(tiny(std::string(family.model_type).c_str()), "tiny");
    std::set<std::string> names, gguf;
    for (const ExpectedTensor& tensor : expected_tensors(config)) {
      EXPECT_TRUE(names.insert(tensor.name).second) << tensor.name;
      EXPECT_TRUE(gguf.insert(gguf_name(*tensor.rule, tensor.layer)).second);
      const auto match = match_tensor(config, tensor.name);
      ASSERT_TRUE(match.has_value()) << tensor.name;
      EXPECT_EQ(match->rule, tensor.rule);
      EXPECT_EQ(match->layer, tensor.layer);
    }
  }
}

TEST(Family, RefusesNamesThatOnlyLookRight) {
  const ModelConfig config = parse_config(tiny("llama"), "tiny");
  for (const char* name : {"model.layers.3.self_attn.q_proj.weight", "model.layers.-1.self_attn.q_proj.weight",
                           "model.layers..self_attn.q_proj.weight", "model.layers.1x.self_attn.q_proj.weight",
                           "model.layers.1.self_attn.q_proj.bias", "model.layers.q_proj.weight"})
    EXPECT_FALSE(match_tensor(config, name).has_value()) << name;
}

TEST(Config, OfPhi3IsThatOfMistral) {
  Json json = tiny("phi3");
  json.update(Json{{"auto_map", {{"AutoConfig", "configuration_phi3.Phi3Config"}}}, {"embd_pdrop", 0.0}});
  const ModelConfig plain = parse_config(json, "plain");
  EXPECT_EQ(plain.family->model_type, "mistral");
  EXPECT_EQ(plain.stored_as, find_joined_family("phi3"));
  EXPECT_EQ(plain.norm_eps, 1e-5);  // Mistral's own default is 1e-6, and it has a window where the key is absent
  EXPECT_EQ(plain.windows, std::vector<int64_t>(3, 0));
  EXPECT_EQ(plain.json["architectures"], Json::array({"MistralForCausalLM"}));
  EXPECT_FALSE(plain.json.contains("auto_map"));
  EXPECT_FALSE(plain.json.contains("original_max_position_embeddings"));  // there is no rope that it belongs to
  EXPECT_EQ(plain.eos_ids, std::vector<int64_t>{32000});
  json.erase("num_key_value_heads");  // MistralConfig takes 8 then
  EXPECT_EQ(parse_config(json, "heads").json["num_key_value_heads"], 4);
  const ModelConfig again = parse_config(plain.json, "again");
  EXPECT_EQ(again.stored_as, nullptr);
  EXPECT_EQ(again.json, plain.json);

  json["rope_scaling"] = {{"type", "su"}, {"short_factor", {1, 2, 3, 4}}, {"long_factor", {2, 3, 4, 5}}};
  json["max_position_embeddings"] = 131072;
  const ModelConfig longer = parse_config(json, "longer");
  EXPECT_EQ(longer.rope.scaling, RopeScaling::kLongRope);
  EXPECT_EQ(longer.rope.original_context, 4096);
  EXPECT_NEAR(longer.rope.attention_factor, std::sqrt(1 + std::log(32.0) / std::log(4096.0)), 1e-12);
  json["partial_rotary_factor"] = 0.75;  // Phi-4-mini
  EXPECT_THROW(parse_config(json, "partial"), Error);
}

TEST(Family, JoinedRowsFollowEachOther) {
  const ModelConfig config = parse_config(tiny("phi3"), "tiny");
  std::map<std::string, int64_t> next;
  std::map<std::string, int64_t> rows;
  for (const ExpectedTensor& tensor : expected_tensors(config))
    if (const StoredPlace stored = stored_place(config, tensor); stored.joined) {
      EXPECT_EQ(stored.first, next[stored.hf_name]) << tensor.name;
      next[stored.hf_name] += tensor.shape.front();
      rows[stored.hf_name] = stored.shape.front();
    }
  EXPECT_EQ(next, rows);
  EXPECT_EQ(rows.size(), 6u);
  EXPECT_EQ(rows["model.layers.2.self_attn.qkv_proj.weight"], 32 + 16 + 16);
  EXPECT_EQ(rows["model.layers.0.mlp.gate_up_proj.weight"], 96);
}

TEST(Config, CountsTheParametersOfKnownModels) {
  Json llama = tiny("llama");  // TinyLlama 1.1B
  llama.update(Json{{"vocab_size", 32000},
                    {"hidden_size", 2048},
                    {"intermediate_size", 5632},
                    {"num_hidden_layers", 22},
                    {"num_attention_heads", 32},
                    {"num_key_value_heads", 4}});
  EXPECT_EQ(parse_config(llama, "TinyLlama").parameters(), 1100048384);
  Json phi = tiny("phi3");  // Phi-3-mini
  phi.update(Json{{"vocab_size", 32064},
                  {"hidden_size", 3072},
                  {"intermediate_size", 8192},
                  {"num_hidden_layers", 32},
                  {"num_attention_heads", 32},
                  {"num_key_value_heads", 32}});
  EXPECT_EQ(parse_config(phi, "Phi-3-mini").parameters(), 3821079552);
  Json qwen = tiny("qwen2");  // Qwen2.5-0.5B
  qwen.update(Json{{"vocab_size", 151936},
                   {"hidden_size", 896},
                   {"intermediate_size", 4864},
                   {"num_hidden_layers", 24},
                   {"num_attention_heads", 14},
                   {"num_key_value_heads", 2},
                   {"tie_word_embeddings", true}});
  EXPECT_EQ(parse_config(qwen, "Qwen2.5-0.5B").parameters(), 494032768);
}

TEST(Config, ReadsBothGenerationsOfRopeKeys) {
  Json old = tiny("llama"), modern = tiny("llama");
  const Json scaling{{"factor", 32.0},
                     {"low_freq_factor", 1.0},
                     {"high_freq_factor", 4.0},
                     {"original_max_position_embeddings", 8192},
                     {"rope_type", "llama3"}};
  old["rope_theta"] = 500000.0;
  old["rope_scaling"] = scaling;
  old["torch_dtype"] = "bfloat16";
  modern["rope_parameters"] = scaling;
  modern["rope_parameters"]["rope_theta"] = 500000.0;
  modern["dtype"] = "bfloat16";
  const ModelConfig a = parse_config(old, "old"), b = parse_config(modern, "modern");
  EXPECT_EQ(rope_frequencies(a), rope_frequencies(b));
  EXPECT_EQ(a.dtype, b.dtype);
  EXPECT_NE(rope_frequencies(a), rope_frequencies(parse_config(tiny("llama"), "plain")));
}

// Numbers of transformers 5.23 (modeling_rope_utils.py): for yarn and longrope, as published and with every key set.
struct RopeCase {
  const char* settings;
  std::vector<float> frequencies, long_frequencies;
  double attention_factor;
};

TEST(Config, RopeScalingsAreThoseOfTransformers) {
  const RopeCase cases[] = {
      {R"({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32})",
       {1.0f, 0.197642356f, 0.0250000004f, 0.00790569466f, 0.00249999994f, 0.000790569466f, 0.00025f, 7.90569466e-05f},
       {1.0f, 0.197642356f, 0.0250000004f, 0.00790569466f, 0.00249999994f, 0.000790569466f, 0.00025f, 7.90569466e-05f},
       1.138629436111989},
      {R"({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 4.0,
           "beta_slow": 0.5, "truncate": false, "mscale": 0.7, "mscale_all_dim": 1.3})",
       {1.0f, 0.212468684f, 0.0256643984f, 0.00790569466f, 0.0025f, 0.000790569466f, 0.00025f, 7.90569466e-05f},
       {1.0f, 0.212468684f, 0.0256643984f, 0.00790569466f, 0.0025f, 0.000790569466f, 0.00025f, 7.90569466e-05f},
       0.9295234923939468},
      {R"({"rope_type": "longrope", "original_max_position_embeddings": 32,
           "short_factor": [1, 1.1, 1.2, 1.4, 1.6, 2, 2.5, 3], "long_factor": [1, 1.3, 2, 3, 4, 6, 8, 9]})",
       {1.0f, 0.287479758f, 0.0833333358f, 0.022587698f, 0.00625f, 0.00158113893f, 0.0004f, 0.000105409257f},
       {1.0f, 0.243252128f, 0.05f, 0.010540925f, 0.0025f, 0.00052704633f, 0.000125f, 3.51364179e-05f},
       1.1832159566199232},
  };
  for (const RopeCase& expected : cases) {
    Json json = tiny("llama");
    json["head_dim"] = 16;
    json["rope_scaling"] = Json::parse(expected.settings);
    const ModelConfig config = parse_config(json, "rope");
    EXPECT_NEAR(config.rope.attention_factor, expected.attention_factor, 1e-12);
    const std::vector<float> within = rope_frequencies(config, 32), beyond = rope_frequencies(config, 33);
    for (size_t i = 0; i < 8; ++i) {
      EXPECT_NEAR(within[i], expected.frequencies[i], 4e-7f * expected.frequencies[i]) << expected.settings << i;
      EXPECT_NEAR(beyond[i], expected.long_frequencies[i], 4e-7f * expected.long_frequencies[i]) << i;
    }
  }
}

TEST(Config, TheOriginalContextMayStandBesideTheSettings) {
  Json json = tiny("llama");
  json["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", nullptr}};
  json["original_max_position_embeddings"] = 32;
  const ModelConfig config = parse_config(json, "rope");
  EXPECT_EQ(config.rope.original_context, 32);
  EXPECT_EQ(config.rope.factor, 4.0);  // 128 / 32
}

TEST(Config, WindowsFollowTheFamily) {
  Json mistral = tiny("mistral");
  mistral["sliding_window"] = 16;
  EXPECT_THAT(parse_config(mistral, "m").windows, testing::ElementsAre(16, 16, 16));
  mistral["sliding_window"] = nullptr;
  EXPECT_THAT(parse_config(mistral, "m").windows, testing::ElementsAre(0, 0, 0));
  EXPECT_THAT(parse_config(tiny("mistral"), "m").windows, testing::Each(4096));  // an absent key is not null
  Json qwen = tiny("qwen2");
  qwen.update(Json{{"sliding_window", 16}, {"use_sliding_window", true}, {"max_window_layers", 2}});
  EXPECT_THAT(parse_config(qwen, "q").windows, testing::ElementsAre(0, 0, 16));
  qwen["use_sliding_window"] = false;
  EXPECT_THAT(parse_config(qwen, "q").windows, testing::ElementsAre(0, 0, 0));
  qwen.update(Json{{"use_sliding_window", true},
                   {"layer_types", {"sliding_attention", "full_attention", "sliding_attention"}}});
  EXPECT_THAT(parse_config(qwen, "q").windows, testing::ElementsAre(16, 0, 16));
  EXPECT_EQ(config_with_layers(parse_config(qwen, "q"), {0, 1})["layer_types"],
            Json({"sliding_attention", "full_attention"}));
}

struct Refusal {
  Json change;
  const char* named;
};

TEST(Config, RefusesByName) {
  const Refusal refusals[] = {
      {{{"model_type", "gpt_oss"}}, "gpt_oss"},
      {{{"hidden_act", "gelu"}}, "gelu"},
      {{{"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 2.0}}}}, "dynamic"},
      {{{"rope_scaling", {{"rope_type", "yarn"}, {"factor", -2.0}}}}, "factor"},
      {{{"rope_scaling", {{"rope_type", "yarn"}, {"original_max_position_embeddings", 0}}}}, "original_max"},
      {{{"rope_scaling", {{"rope_type", "longrope"}, {"short_factor", {1, 1}}}}}, "short_factor"},
      {{{"num_key_value_heads", 3}}, "num_key_value_heads"},
      {{{"hidden_size", -1}}, "hidden_size"},
      {{{"hidden_size", 99999999999}}, "hidden_size"},
      {{{"vocab_size", "many"}}, "vocab_size"},
      {{{"dtype", "float8_e4m3fn"}}, "float8_e4m3fn"},
      {{{"partial_rotary_factor", 0.5}}, "partial_rotary_factor"},
      {{{"rope_parameters", {{"full_attention", {{"rope_theta", 1e6}}}}}}, "full_attention"},
      {{{"model_type", "mistral"}, {"attention_bias", true}}, "attention_bias"},
      {{{"model_type", "qwen3"}, {"mlp_bias", true}}, "mlp_bias"},
      {{{"model_type", "mistral"}, {"layer_types", {"full_attention", "full_attention", "full_attention"}}},
       "layer_types"},
      {{{"model_type", "qwen2"}, {"use_sliding_window", true}, {"layer_types", {"linear", "linear", "linear"}}},
       "linear"},
  };
  for (const Refusal& refusal : refusals) {
    Json json = tiny("llama");
    json.update(refusal.change);
    try {
      parse_config(json, "config.json");
      ADD_FAILURE() << refusal.change;
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), testing::HasSubstr(refusal.named));
    }
  }
}

}  // namespace
}  // namespace retort
