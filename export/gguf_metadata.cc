#include "export/gguf_metadata.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <set>

#include "core/arch/joined_family.h"
#include "core/base/counts.h"
#include "core/base/error.h"
#include "core/base/json.h"
#include "core/checkpoint/chat_templates.h"
#include "core/tokenizer/gguf_vocabulary.h"
#include "export/gguf_end_tokens.h"
#include "export/model_name.h"
#include "export/provenance.h"
#include "export/tensors.h"

namespace retort {
namespace {

// Numbers of GGUF's value types, the index of GgufValue's alternatives.
constexpr size_t kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8;

class Metadata {
 public:
  void u32(std::string key, int64_t value) {
    add(std::move(key), GgufValue(std::in_place_index<kU32>, static_cast<uint32_t>(value)));
  }
  void f32(std::string key, double value) {
    add(std::move(key), GgufValue(std::in_place_index<kF32>, static_cast<float>(value)));
  }
  void boolean(std::string key, bool value) { add(std::move(key), GgufValue(std::in_place_index<kBool>, value)); }
  void text(std::string key, std::string value) {
    add(std::move(key), GgufValue(std::in_place_index<kString>, std::move(value)));
  }
  template <typename Values>
  void array(std::string key, size_t type, Values values) {
    add(std::move(key), std::make_shared<GgufArray>(GgufArray{static_cast<uint32_t>(type), std::move(values)}));
  }
  void id(std::string key, std::optional<int64_t> value) {
    if (value) u32(std::move(key), *value);
  }
  GgufHeader take() { return std::move(header_); }

 private:
  void add(std::string key, GgufValue value) { header_.metadata.emplace_back(std::move(key), std::move(value)); }
  GgufHeader header_;
};

// llama3's is in rope_freqs.weight. llama.cpp multiplies YaRN's advised attention factor by the one in the file.
void add_rope_scaling(Metadata& meta, const std::string& prefix, const RopeConfig& rope) {
  if (rope.scaling == RopeScaling::kLinear || rope.scaling == RopeScaling::kYarn)
    meta.f32(prefix + "factor", rope.factor);
  if (rope.scaling == RopeScaling::kLinear) return meta.text(prefix + "type", "linear");
  const bool yarn = rope.scaling == RopeScaling::kYarn;
  if (!yarn && rope.scaling != RopeScaling::kLongRope) return;
  meta.text(prefix + "type", yarn ? "yarn" : "longrope");
  meta.u32(prefix + "original_context_length", rope.original_context);
  meta.f32(prefix + "attn_factor", rope.attention_factor / (yarn ? yarn_attention_factor(rope.factor) : 1.0));
  if (!yarn) return;
  meta.f32(prefix + "yarn_beta_fast", rope.beta_fast);
  meta.f32(prefix + "yarn_beta_slow", rope.beta_slow);
}

// llama.cpp takes the rule for blanks behind tokens from the name (core/tokenizer/gguf_vocabulary.h).
std::string name_that_strips_alike(std::string title, const Vocabulary& vocabulary) {
  const bool strips = strips_as_phi3(vocabulary);
  if (strips == names_phi3(title)) return title;
  if (strips) return title.empty() ? "Phi-3" : title + " (Phi-3 tokenizer)";
  for (size_t i = 0; i < title.size(); ++i)
    if (names_phi3(title.substr(i, 4))) title.insert(i + 3, " ");
  return title;
}

// As llama.cpp's converter has it; a size that the name does not say is counted.
void add_name(Metadata& meta, const ModelName& name, int64_t parameters, const Vocabulary& vocabulary) {
  const auto text = [&](const char* key, const std::string& value) {
    if (!value.empty()) meta.text(key, value);
  };
  text("general.name", name_that_strips_alike(title_of(name.full), vocabulary));
  text("general.version", name.version);
  text("general.finetune", name.finetune);
  text("general.basename", name.base);
  text("general.size_label", name.size.empty() ? size_label(parameters) : name.size);
}

void add_sizes(Metadata& meta, const ModelConfig& c) {
  const std::string arch(c.family->gguf_architecture);
  meta.u32(arch + ".vocab_size", c.vocab_size);
  meta.u32(arch + ".context_length", exact_context(c));
  meta.u32(arch + ".embedding_length", c.hidden_size);
  meta.u32(arch + ".block_count", c.layers);
  meta.u32(arch + ".feed_forward_length", c.ffn_size);
  meta.u32(arch + ".attention.head_count", c.heads);
  meta.u32(arch + ".attention.head_count_kv", c.kv_heads);
  meta.u32(arch + ".attention.key_length", c.head_dim);
  meta.u32(arch + ".attention.value_length", c.head_dim);
  meta.f32(arch + ".attention.layer_norm_rms_epsilon", c.norm_eps);
  meta.u32(arch + ".rope.dimension_count", c.head_dim);
  meta.f32(arch + ".rope.freq_base", c.rope.theta);
  if (c.family->window == Family::Window::kEveryLayer && c.windows.front() > 0)
    meta.u32(arch + ".attention.sliding_window", c.windows.front());
  add_rope_scaling(meta, arch + ".rope.scaling.", c.rope);
}

// llama.cpp wants one token for every row of the embedding.
std::vector<VocabularyEntry> padded_tokens(const Vocabulary& vocabulary, const ModelSource& source) {
  std::vector<VocabularyEntry> tokens = vocabulary.tokens;
  const auto rows = static_cast<size_t>(source.config().vocab_size);
  if (tokens.size() > rows)
    fail("export", source.path().string(), "the tokenizer has more tokens than the embedding has rows",
         "Resize the embedding");
  for (size_t i = tokens.size(); i < rows; ++i)
    tokens.push_back({"[PAD" + std::to_string(i) + "]", -10000.0f, TokenType::kUnused});
  return tokens;
}

void add_tokens(Metadata& meta, const Vocabulary& vocabulary, const ModelSource& source) {
  std::vector<std::string> texts;
  std::vector<double> scores;
  std::vector<int64_t> types;
  for (VocabularyEntry& token : padded_tokens(vocabulary, source)) {
    texts.push_back(std::move(token.text));
    scores.push_back(token.score);
    types.push_back(static_cast<int64_t>(token.type));
  }
  meta.array("tokenizer.ggml.tokens", kString, std::move(texts));
  if (vocabulary.kind == Vocabulary::Kind::kSentencePiece) meta.array("tokenizer.ggml.scores", kF32, std::move(scores));
  meta.array("tokenizer.ggml.token_type", kI32, std::move(types));
  if (vocabulary.kind == Vocabulary::Kind::kByteLevelBpe)
    meta.array("tokenizer.ggml.merges", kString, vocabulary.merges);
}

void add_vocabulary(Metadata& meta, const Vocabulary& vocabulary, const ModelSource& source) {
  const ModelConfig& c = source.config();
  const bool bpe = vocabulary.kind == Vocabulary::Kind::kByteLevelBpe;
  if (vocabulary.pre.empty())
    fail("export", source.path().string(), "llama.cpp has no tokenizer that works like its own",
         "Use --format onnx, gptq or hf, which keep tokenizer.json");
  meta.text("tokenizer.ggml.model", bpe ? "gpt2" : "llama");
  meta.text("tokenizer.ggml.pre", bpe ? vocabulary.pre : "default");
  add_tokens(meta, vocabulary, source);
  std::optional<int64_t> bos = c.bos_id;
  if (vocabulary.bos) bos = *vocabulary.bos;
  const GgufEndTokens ends = gguf_end_tokens(c, vocabulary);
  meta.id("tokenizer.ggml.bos_token_id", bos);
  meta.id("tokenizer.ggml.eos_token_id", ends.eos);
  meta.id("tokenizer.ggml.eot_token_id", ends.eot);
  meta.id("tokenizer.ggml.eom_token_id", ends.eom);
  meta.id("tokenizer.ggml.unknown_token_id", vocabulary.unknown);
  meta.id("tokenizer.ggml.padding_token_id", vocabulary.padding);
  meta.boolean("tokenizer.ggml.add_bos_token", vocabulary.add_bos);
  meta.boolean("tokenizer.ggml.add_eos_token", vocabulary.add_eos);
  if (!bpe) meta.boolean("tokenizer.ggml.add_space_prefix", vocabulary.add_space_prefix);
}

// A name as the gguf package writes it.
std::string key_of_template(std::string name) {
  for (char& c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  return name;
}

// Of two templates whose names become one the first is written.
void add_chat_templates(Metadata& meta, const ModelSource& source) {
  std::set<std::string> names;
  for (const auto& [name, text] : chat_templates_of_side_files(source.side_files(), source.path().string()))
    if (const std::string key = key_of_template(name); name != "default" && names.insert(key).second)
      meta.text("tokenizer.chat_template." + key, text);
  if (!names.empty())
    meta.array("tokenizer.chat_templates", kString, std::vector<std::string>(names.begin(), names.end()));
  if (const std::string chat = source.chat_template(); !chat.empty()) meta.text("tokenizer.chat_template", chat);
}

// llama.cpp's LLAMA_FTYPE numbers. A mix is called after the type of most weights, and the larger of two mixes has
// weights of the type `with` too.
struct FileType {
  std::string_view most, with;
  uint32_t number;
  std::string_view name;
};
constexpr std::array kFileTypes{
    FileType{"f32", "", 0, "F32"},          FileType{"f16", "", 1, "F16"},
    FileType{"bf16", "", 32, "BF16"},       FileType{"q4_0", "", 2, "Q4_0"},
    FileType{"q4_1", "", 3, "Q4_1"},        FileType{"q8_0", "", 7, "Q8_0"},
    FileType{"q5_0", "", 8, "Q5_0"},        FileType{"q5_1", "", 9, "Q5_1"},
    FileType{"q2_k", "q3_k", 10, "Q2_K"},   FileType{"q2_k", "", 21, "Q2_K_S"},
    FileType{"q3_k", "q4_k", 12, "Q3_K_M"}, FileType{"q3_k", "q5_k", 13, "Q3_K_L"},  // Q3_K_M may have q5_k too
    FileType{"q3_k", "", 11, "Q3_K_S"},     FileType{"q4_k", "q6_k", 15, "Q4_K_M"},
    FileType{"q4_k", "", 14, "Q4_K_S"},     FileType{"q5_k", "q6_k", 17, "Q5_K_M"},
    FileType{"q5_k", "", 16, "Q5_K_S"},     FileType{"q6_k", "", 18, "Q6_K"},
    FileType{"iq4_nl", "", 25, "IQ4_NL"},   FileType{"iq4_xs", "", 30, "IQ4_XS"},
};

const FileType& file_type(const GgufLayerTypes& types) {
  const std::string& most = largest_count(types)->first;
  const auto* row = std::ranges::find_if(kFileTypes, [&](const FileType& type) {
    return type.most == most && (type.with.empty() || types.contains(std::string(type.with)));
  });
  if (row == kFileTypes.end()) fail("export", most, "GGUF has no number for files of this type");
  return *row;
}

// The importance matrix that the codes were chosen with, under the keys of llama-quantize; texts by name, not by place.
void add_importance(Metadata& meta, const Json& report) {
  const auto object_in = [](const Json& json, const char* key) {
    return json.is_object() ? json_value(json, key, Json::object(), "retort.json") : Json::object();
  };
  const Json importance = object_in(object_in(report, "options"), "importance");
  if (!importance.is_object() || importance.empty()) return;
  std::string names;
  for (const auto& text : json_value(importance, "texts", std::vector<std::string>(), "retort.json"))
    names += (names.empty() ? "" : ", ") + std::filesystem::path(text).filename().string();
  if (!names.empty()) meta.text("quantize.imatrix.dataset", names);
  const auto count = [&](const char* name, const char* key) {
    if (const auto value = json_value(importance, name, int64_t{0}, "retort.json"); value > 0) meta.u32(key, value);
  };
  count("entries", "quantize.imatrix.entries_count");
  count("windows", "quantize.imatrix.chunks_count");
}

// How the numbers came about, as far as the model says so, and what its tokenizer and chat template are.
void add_provenance(Metadata& meta, const ModelSource& source) {
  const Provenance provenance = provenance_of(source);
  for (const auto& [name, text] : provenance.entries()) meta.text("retort." + name, text);
  add_importance(meta, provenance.report);
}

void check_rope(const ModelConfig& c) {
  if (c.rope.scaling == RopeScaling::kYarn && !c.rope.truncate)
    fail("export", "rope",
         "llama.cpp's YaRN has whole dimensions as its bounds, and the model says \"truncate\": false",
         "Use --format onnx or hf");
  const bool factors = c.rope.scaling == RopeScaling::kLlama3 || c.rope.scaling == RopeScaling::kFactors ||
                       c.rope.scaling == RopeScaling::kLongRope;
  if (factors && c.family->gguf_architecture != "llama")
    fail("export", "rope",
         "llama.cpp's '" + std::string(c.family->gguf_architecture) + "' has no factors of its rotary frequencies",
         "Use --format onnx or hf");
}

}  // namespace

GgufHeader gguf_metadata(const ModelSource& source, const std::string& id) {
  const ModelConfig& c = source.config();
  check_rope(c);
  if (c.family->qk_norm && c.qkv_bias)
    fail("export", tensor_name(c, Role::kQuery, 0, Part::kBias),
         "llama.cpp's '" + std::string(c.family->gguf_architecture) + "' has no biases in attention",
         "Use --format onnx or hf");
  const auto tokenizer = source.tokenizer();
  const Vocabulary& vocabulary = tokenizer->vocabulary();
  Metadata meta;
  meta.text("general.architecture", std::string(c.family->gguf_architecture));
  meta.text("general.type", "model");
  add_name(meta, parse_model_name(id, c.parameters()), c.parameters(), vocabulary);
  add_sizes(meta, c);
  add_vocabulary(meta, vocabulary, source);
  add_chat_templates(meta, source);
  add_provenance(meta, source);
  return meta.take();
}

std::string unsaid_strips(const Vocabulary& vocabulary) {
  if (strips_as_phi3(vocabulary)) return {};
  const auto first = std::ranges::find_if(vocabulary.tokens, &VocabularyEntry::strips);
  if (first == vocabulary.tokens.end()) return {};
  const auto count = std::ranges::count_if(vocabulary.tokens, &VocabularyEntry::strips);
  return "blanks beside '" + first->text + "'" +
         (count > 1 ? " and " + std::to_string(count - 1) + " more tokens" : "") +
         " belong to them, for which GGUF has no key: llama.cpp makes tokens of those blanks";
}

std::vector<std::string> gguf_unsaid(const ModelSource& source) {
  std::vector<std::string> notes;
  std::set<std::string> keys;
  for (const auto& [name, text] : chat_templates_of_side_files(source.side_files(), source.path().string()))
    if (!keys.insert(key_of_template(name)).second)
      notes.push_back("the chat template '" + name + "' is left out: in GGUF its name is that of another");
  const auto tokenizer = source.tokenizer();
  const Vocabulary& vocabulary = tokenizer->vocabulary();
  if (const std::string note = unsaid_strips(vocabulary); !note.empty()) notes.push_back(note);
  for (const int64_t id : gguf_end_tokens(source.config(), vocabulary).unsaid)
    notes.push_back("the token " + std::to_string(id) + " '" + std::string(text_of_token(vocabulary, id)) +
                    "' ends a generation too, for which GGUF has no key: llama.cpp goes on after it");
  return notes;
}

std::string gguf_model_name(const ModelSource& source, const std::string& id, const GgufLayerTypes& types) {
  const ModelConfig& c = source.config();
  const ModelName name = parse_model_name(id.empty() ? stored_family(c) : std::string_view(id), c.parameters());
  return gguf_stem(name, c.parameters(), file_type(types).name);
}

void add_gguf_file_type(GgufHeader& header, const GgufLayerTypes& types, std::span<const std::string> fallbacks) {
  header.metadata.emplace_back("general.file_type", GgufValue(std::in_place_index<kU32>, file_type(types).number));
  header.metadata.emplace_back("general.quantization_version", GgufValue(std::in_place_index<kU32>, 2u));
  if (fallbacks.empty()) return;
  auto notes =
      std::make_shared<GgufArray>(GgufArray{kString, std::vector<std::string>(fallbacks.begin(), fallbacks.end())});
  header.metadata.emplace_back("retort.fallbacks", std::move(notes));
}

namespace {

std::vector<float> llama3_factors(const ModelConfig& config) {
  ModelConfig unscaled = config;
  unscaled.rope.scaling = RopeScaling::kNone;
  std::vector<float> factors = rope_frequencies(unscaled);
  const std::vector<float> scaled = rope_frequencies(config);
  std::ranges::transform(factors, scaled, factors.begin(), [](float from, float to) { return from / to; });
  return factors;
}

}  // namespace

std::vector<GgufFactors> gguf_rope_factors(const ModelConfig& config) {
  const auto floats = [](const std::vector<double>& values) {
    return std::vector<float>(values.begin(), values.end());
  };
  const RopeConfig& rope = config.rope;
  switch (rope.scaling) {
    case RopeScaling::kFactors: return {{"rope_freqs.weight", floats(rope.factors)}};
    case RopeScaling::kLlama3: return {{"rope_freqs.weight", llama3_factors(config)}};
    case RopeScaling::kLongRope:
      return {{"rope_factors_long.weight", floats(rope.long_factors)},
              {"rope_factors_short.weight", floats(rope.factors)}};
    default: return {};
  }
}

}  // namespace retort
