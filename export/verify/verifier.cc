#include "export/verifier.h"

#include <algorithm>
#include <cctype>
#include <functional>
#include <set>

#include "core/arch/joined_family.h"
#include "core/base/error.h"
#include "core/base/json.h"
#include "core/checkpoint/gguf.h"
#include "core/tokenizer/unicode.h"
#include "export/gguf_end_tokens.h"
#include "export/gguf_metadata.h"
#include "export/hard_text.h"
#include "export/json_tokenizer.h"
#include "export/provenance.h"
#include "export/tensors.h"
#include "export/verify/artifact.h"
#include "export/verify/rounding.h"
#include "export/verify/settings.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr int64_t kChunkElements = int64_t{1} << 20;

std::unique_ptr<ArtifactReader> open_artifact(const fs::path& path, const ModelConfig& config) {
  if (!fs::exists(path)) fail("verify", path.string(), "there is no such file or directory");
  if (!fs::is_directory(path)) return open_gguf_artifact(path, config);
  if (const fs::path inside = gguf_in_directory(path); !inside.empty()) return open_gguf_artifact(inside, config);
  if (fs::exists(path / "model.onnx")) return open_onnx_artifact(path, config);
  const Json json = read_json_file((path / "config.json").string());
  refuse_joined(find_joined_family(json_value<std::string>(json, "model_type", "", path.string())), path);
  const auto settings = json.find("quantization_config");
  const std::string method = settings == json.end() || !settings->is_object()
                                 ? std::string()
                                 : json_value<std::string>(*settings, "quant_method", "", path.string());
  if (method == "retort")
    fail("verify", path.string(), "it is a quantized model of this program, and no exported artifact",
         "Give what `retort export` wrote");
  if (method == "gptq") return open_gptq_artifact(path);
  if (method == "awq") return open_awq_artifact(path);
  if (method == "compressed-tensors") return open_compressed_tensors_artifact(path);
  if (json.contains("quantization") && json["quantization"].is_object()) return open_mlx_artifact(path, config);
  return open_hf_artifact(path);
}

class Comparison {
 public:
  Comparison(const ModelSource& model, VerifyResult& result) : model_(model), result_(result) {}

  void compare(const ExpectedTensor& expected, const ArtifactTensor& found, DType loaded) {
    const ModelTensor& tensor = model_.at(expected.name);
    ++result_.tensors_compared;
    if (const int64_t rounded = rounded_by(loaded, found); rounded > 0) {
      ++result_.settings_different;
      note(tensor, std::to_string(rounded) + " numbers are rounded when it is loaded, for config.json asks for " +
                       std::string(name_of(loaded)));
    }
    if (found.dense) {
      dense_.insert(tensor.name);
      result_.integers_as_values += tensor.stores_integers() ? 1 : 0;
      return compare_dense(tensor, found);
    }
    if (!tensor.integers_lost.empty()) return compare_values(tensor, found);
    if (tensor.scheme.is_dense()) {
      result_.codes_different += tensor.elements();
      return note(tensor, "it is made of integers, and dense in the model");
    }
    ++result_.tensors_as_integers;
    compare_integers(tensor, model_.read_quantized(tensor), found);
  }

  void list_rounded() {
    result_.integers_rounded = static_cast<int64_t>(rounded_integers_.size());
    std::ranges::stable_sort(rounded_, std::greater(), &Rounded::values);
    for (const auto& [values, line] : rounded_) result_.rounded.push_back(line);
  }

  // What the artifact says of them against what they are.
  std::vector<std::string> fallback_differences(const std::vector<std::string>& listed) const {
    return retort::fallback_differences(listed, dense_, rounded_integers_);
  }

 private:
  struct Rounded {
    int64_t values;
    std::string line;
  };

  void note(const ModelTensor& tensor, const std::string& what) {
    result_.differences.push_back(tensor.name + ": " + what);
  }

  // Of dense values, or of scales, those that the type does not have.
  static int64_t rounded_by(DType loaded, const ArtifactTensor& found) {
    if (loaded == DType::kF32 || found.dense == loaded) return 0;
    int64_t rounded = std::ranges::count_if(found.scales, [&](float scale) { return !has_number(loaded, scale); });
    if (!found.dense) return rounded;
    for (size_t at = 0; at < found.bytes.size(); at += size_of(*found.dense))
      rounded += has_number(loaded, number_at(*found.dense, found.bytes.data() + at)) ? 0 : 1;
    return rounded;
  }

  // The artifact's values must be the nearest of their type to the model's.
  void compare_dense(const ModelTensor& tensor, const ArtifactTensor& found) {
    const size_t size = size_of(*found.dense);
    const int64_t cols = tensor.cols(), step = std::max<int64_t>(1, kChunkElements / cols);
    std::vector<float> values;
    Closeness all;
    for (int64_t first = 0; first < tensor.rows(); first += step) {
      const int64_t count = std::min(step, tensor.rows() - first);
      values.resize(static_cast<size_t>(count * cols));
      model_.read_f32(tensor, first, count, values);
      const Closeness run =
          closeness_of(*found.dense, values, found.bytes.data() + static_cast<size_t>(first * cols) * size);
      all.different += run.different;
      all.rounded += run.rounded;
    }
    count(tensor, *found.dense, all);
  }

  // Of integers, where the model has the numbers that they stand for.
  void compare_values(const ModelTensor& tensor, const ArtifactTensor& found) {
    const int64_t cols = tensor.cols(), step = std::max<int64_t>(1, kChunkElements / 2 / cols);  // of both
    int64_t different = 0;
    for (int64_t first = 0; first < tensor.rows(); first += step) {
      const int64_t count = std::min(step, tensor.rows() - first);
      std::vector<float> expected(static_cast<size_t>(count * cols)), values(expected.size());
      model_.read_f32(tensor, first, count, expected);
      dequantize_rows(found, first, count, values);
      for (size_t i = 0; i < values.size(); ++i) different += values[i] == expected[i] ? 0 : 1;
    }
    result_.values_different += different;
    if (different > 0) note(tensor, std::to_string(different) + " values differ");
  }

  void count(const ModelTensor& tensor, DType type, const Closeness& values) {
    result_.values_different += values.different;
    result_.values_rounded += values.rounded;
    result_.tensors_rounded += values.rounded > 0 ? 1 : 0;
    if (values.rounded > 0 && tensor.stores_integers()) rounded_integers_.insert(tensor.name);
    if (values.different > 0) note(tensor, std::to_string(values.different) + " values differ");
    if (values.rounded > 0)
      rounded_.push_back({values.rounded, tensor.name + ": " + std::to_string(values.rounded) + " values rounded to " +
                                              std::string(name_of(type))});
  }

  // An artifact may have the minimum that a zero point stands for in its place.
  static bool has_minima_for_zeros(const QuantizedMatrix& model, const ArtifactTensor& found) {
    return model.minima.empty() && !found.minima.empty();
  }

  // Scale and minimum of a group of the model, whose zero point is `zero`, and of one of the artifact.
  static bool same_scale(const QuantizedMatrix& model, size_t at, int zero, const ArtifactTensor& found,
                         size_t stored) {
    float minimum = model.minima.empty() ? 0 : model.minima[at];
    if (has_minima_for_zeros(model, found)) minimum = model.scales[at] * static_cast<float>(zero);
    if (minimum != (found.minima.empty() ? 0 : found.minima[stored])) return false;
    return model.scales[at] == found.scales[stored];
  }

  void compare_integers(const ModelTensor& tensor, const QuantizedMatrix& model, const ArtifactTensor& found) {
    int64_t codes = static_cast<int64_t>(model.outliers.size()), scales = 0;  // these are no integers in the model
    const std::span<const float> levels = levels_of(model.scheme.book);
    const bool raw_codes = has_minima_for_zeros(model, found);
    std::vector<uint8_t> wrong(static_cast<size_t>(found.groups));  // groups of the row with another scale
    for (int64_t r = 0; r < model.rows; ++r) {
      std::ranges::fill(wrong, uint8_t{0});
      for (int64_t c = 0; c < model.cols; ++c) {
        const auto at = static_cast<size_t>(r * model.cols + c);
        const int64_t group = model.group_of(c), stored = found.column_group[static_cast<size_t>(c)];
        const int zero = model.zero(r, group);
        const int level =
            levels.empty() ? model.codes[at] - (raw_codes ? 0 : zero) : static_cast<int>(levels[model.codes[at]]);
        codes += level != found.levels[at];
        if (!same_scale(model, static_cast<size_t>(r * model.groups() + group), zero, found,
                        static_cast<size_t>(r * found.groups + stored)))
          wrong[static_cast<size_t>(stored)] = 1;
      }
      scales += std::ranges::count(wrong, uint8_t{1});
    }
    result_.codes_different += codes;
    result_.scales_different += scales;
    if (codes + scales > 0)
      note(tensor, std::to_string(codes) + " codes and " + std::to_string(scales) + " scales differ");
  }

  const ModelSource& model_;
  VerifyResult& result_;
  std::vector<Rounded> rounded_;
  std::set<std::string> dense_, rounded_integers_;  // in the artifact, and of them those that are integers in the model
};

// As they lie beside the model: what other programs leave as it is, the place where a tokenizer lay included.
std::string_view bytes_in(const ModelSource& model, std::string_view name) {
  const auto found = std::ranges::find(model.side_files(), name, &SideFile::name);
  return found == model.side_files().end() ? std::string_view() : found->bytes;
}

bool same_files(std::span<const SideFile> stored, const ModelSource& model, const JsonTokenizer& made,
                VerifyResult& result) {
  std::vector<SideFile> files = artifact_side_files(model);
  files.insert(files.end(), made.files.begin(), made.files.end());
  bool same = true;
  for (const SideFile& file : files) {
    const auto found = std::ranges::find(stored, file.name, &SideFile::name);
    if (found != stored.end() && (found->bytes == file.bytes || found->bytes == bytes_in(model, file.name))) continue;
    result.differences.push_back(file.name + ": it has other bytes, or is missing");
    same = false;
  }
  return same;
}

// The special tokens one after the other.
std::string special_text(const Tokenizer& tokenizer) {
  std::string text;
  for (const VocabularyEntry& token : tokenizer.vocabulary().tokens)
    if (token.type == TokenType::kControl) text += token.text;
  return text;
}

bool same_ids(const Tokenizer& mine, const Tokenizer& stored, std::string_view text, bool special) {
  return mine.encode(text, special) == stored.encode(text, special);
}

// GGUF has no normalizers: a tokenizer that makes NFC of its text first gives the ids that the stored one gives to NFC.
bool same_ids_of_nfc(const Tokenizer& mine, const Tokenizer& stored, const std::string& text,
                     const std::string& specials) {
  const std::string normal = normalize(text, NormalForm::kNfc);
  return mine.encode(text, false) == stored.encode(normal, false) &&
         mine.encode(text + specials, true) == stored.encode(normal + specials, true);
}

// GGUF has no place for blanks that belong to tokens, but llama.cpp a rule for one family.
bool same_strips(const Vocabulary& mine, const Vocabulary& stored, VerifyResult& result) {
  const auto alike = [](const VocabularyEntry& a, const VocabularyEntry& b) {
    return a.strip_left == b.strip_left && a.strip_right == b.strip_right;
  };
  const auto [token, other] = std::ranges::mismatch(mine.tokens, stored.tokens, alike);
  if (token == mine.tokens.end() || other == stored.tokens.end()) return true;
  if (const std::string unsaid = unsaid_strips(mine); !unsaid.empty()) {
    result.notes.push_back("tokenizer: " + unsaid);
    return true;
  }
  result.differences.push_back("tokenizer: blanks beside '" + token->text + "' belong to it in one alone");
  return false;
}

// The ids that begin and end a text, and whether they are added. Where a tokenizer does not name them, a GGUF file has
// those of the configuration.
bool same_rules(const Vocabulary& mine, const Vocabulary& stored, const ModelConfig& config, VerifyResult& result) {
  const auto differ = [&](const char* what) {
    result.differences.push_back(std::string("tokenizer: ") + what);
    return false;
  };
  if (mine.bos != stored.bos && (mine.bos || stored.bos != config.bos_id)) return differ("it has another BOS token");
  if (mine.eos != stored.eos && (mine.eos || config.eos_ids.empty() || stored.eos != config.eos_ids.front()))
    return differ("it has another EOS token");
  if (mine.unknown != stored.unknown || mine.padding != stored.padding)
    return differ("it has another token for the unknown or for padding");
  if (mine.add_bos != stored.add_bos || mine.add_eos != stored.add_eos)
    return differ("it adds BOS or EOS where the model's does not");
  return same_strips(mine, stored, result);
}

// A GGUF file has three keys for tokens that end a generation, and llama.cpp stops at some texts without being told.
bool same_ends(const ArtifactReader& artifact, const ModelConfig& config, const Vocabulary& mine,
               VerifyResult& result) {
  const auto stored = artifact.end_tokens();
  if (!stored) return true;
  const auto has = [](const std::vector<int64_t>& ids, int64_t id) { return std::ranges::find(ids, id) != ids.end(); };
  const auto name = [&](int64_t id) { return std::to_string(id) + " '" + std::string(text_of_token(mine, id)) + "'"; };
  const std::vector<int64_t> unsaid = gguf_end_tokens(config, mine).unsaid;
  bool same = true;
  const auto differ = [&](int64_t id, const char* what) {
    result.differences.push_back("tokenizer: the token " + name(id) + what);
    same = false;
  };
  for (const int64_t id : config.eos_ids) {
    if (has(*stored, id) || llama_cpp_stops_at(text_of_token(mine, id))) continue;
    if (!has(unsaid, id))
      differ(id, " does not end a generation");
    else
      result.notes.push_back("tokenizer: the token " + name(id) + " ends a generation too, for which GGUF has no key");
  }
  for (const int64_t id : *stored)
    if (!has(config.eos_ids, id) && mine.eos != id) differ(id, " ends a generation");
  return same;
}

// The ids tell what a tokenizer.json that was made adds to a text. Which tokens have a name is a matter of
// tokenizer_config.json, of which the bytes are compared; it may name others than a tokenizer.model does.
bool same_tokenizer(const ArtifactReader& artifact, const ModelSource& model, const JsonTokenizer& made,
                    VerifyResult& result) {
  if (model.container() != "gguf" && !has_tokenizer(model.side_files())) return true;
  const auto mine = model.tokenizer(), stored = artifact.tokenizer();
  std::string text(hard_text());
  const std::string specials = special_text(*mine);
  if (!same_ids(*mine, *stored, text, false) || !same_ids(*mine, *stored, text + specials, true)) {
    if (artifact.format() != "gguf" || !same_ids_of_nfc(*mine, *stored, text, specials)) {
      result.differences.emplace_back("tokenizer: it gives other token ids for the test text");
      return false;
    }
    result.notes.emplace_back("tokenizer: text is tokenized as llama.cpp does, without making it NFC first");
    text = normalize(text, NormalForm::kNfc);
  }
  if (made.files.empty() && !same_rules(mine->vocabulary(), stored->vocabulary(), model.config(), result)) return false;
  if (!same_ends(artifact, model.config(), mine->vocabulary(), result)) return false;
  if (!same_ids(*mine, *stored, specials + text, true))
    result.notes.emplace_back(
        "tokenizer: text that follows a special token is tokenized as llama.cpp does, with a blank in front");
  return true;
}

// The model's chat templates under the names that the format can have: in GGUF of letters and digits.
ChatTemplates expected_templates(const ModelSource& model, bool gguf, VerifyResult& result) {
  ChatTemplates templates;
  for (const auto& [original, text] : chat_templates_of_side_files(model.side_files(), model.path().string())) {
    std::string name = original;
    for (char& c : name)
      if (gguf && std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
    if (!templates.emplace(name, text).second)
      result.notes.push_back("chat template: '" + original + "' is left out, its name is that of another");
  }
  return templates;
}

bool same_templates(const ArtifactReader& artifact, const ModelSource& model, VerifyResult& result) {
  const ChatTemplates expected = expected_templates(model, artifact.format() == "gguf", result);
  const ChatTemplates found = artifact.chat_templates();
  const auto differ = [&](const std::string& name, const char* what) {
    result.differences.push_back("chat template" + (name == "default" ? "" : " '" + name + "'") + ": " + what);
  };
  for (const auto& [name, text] : expected)
    if (const auto stored = found.find(name); stored == found.end())
      differ(name, "it is missing");
    else if (stored->second != text)
      differ(name, "its bytes differ");
  for (const auto& [name, text] : found)
    if (!expected.contains(name)) differ(name, "the model has none");
  return expected == found;
}

// A digest that the artifact carries is that of the model; artifacts of other programs carry none.
bool same_digest(const Json& self, const char* name, const std::string& digest, VerifyResult& result) {
  const std::string carried = json_value<std::string>(self, name, "", "retort");
  if (carried.empty() || carried == digest) return true;
  result.differences.push_back(std::string(name) + ": " + carried + " instead of " + digest);
  return false;
}

// One tensor is in memory at a time: integers as the artifact has them and as the model has them, or the artifact's
// dense bytes and some values of the model.
void check_memory(const ModelSource& model, const Context& context) {
  constexpr uint64_t kPages = uint64_t{32} << 20, kBytesPerCode = 6;
  uint64_t largest = 0;
  for (const ModelTensor& tensor : model.tensors())
    largest = std::max(largest, static_cast<uint64_t>(tensor.elements()) *
                                    (tensor.scheme.is_dense() ? size_of(DType::kF32) : kBytesPerCode));
  check_memory_limit("verify", model, kPages + kChunkElements * sizeof(float) + largest, context);
}

}  // namespace

VerifyResult verify_artifact(const fs::path& path, const ModelSource& model, Context& context) {
  check_memory(model, context);
  const auto artifact = open_artifact(path, model.config());
  VerifyResult result;
  result.format = artifact->format();
  const Json self = artifact->self();  // before the long part, which what is wrong in it would waste
  const auto fallbacks = json_value(self, "fallbacks", std::vector<std::string>{}, path.string());
  result.fallbacks_recorded = static_cast<int64_t>(fallbacks.size());
  const auto expected = expected_tensors(model.config());
  context.progress.begin("verify " + result.format, static_cast<int64_t>(expected.size()), "tensors");
  Comparison comparison(model, result);
  const DType loaded = artifact->loaded_type().value_or(DType::kF32);
  for (const ExpectedTensor& tensor : expected) {
    context.check_interrupted();
    comparison.compare(tensor, artifact->read(tensor), loaded);
    context.progress.update(result.tensors_compared, tensor.name);
  }
  context.progress.end();
  comparison.list_rounded();
  result.bytes_unclaimed = artifact->unclaimed_bytes();
  if (result.bytes_unclaimed > 0)
    result.differences.push_back("weights: " + std::to_string(result.bytes_unclaimed) + " bytes belong to no tensor");
  if (result.integers_as_values > 0)
    result.notes.push_back("it holds the values of " + std::to_string(result.integers_as_values) +
                           " matrices that are integers in the model, and these were compared as values");
  const ExportFormat& format = export_format(result.format);
  const JsonTokenizer made = format.json_tokenizer ? json_tokenizer_of(model) : JsonTokenizer();
  if (!made.note.empty()) result.notes.push_back(made.note);
  result.tokenizer_equal = same_tokenizer(*artifact, model, made, result);
  if (result.format != "gguf")
    result.tokenizer_equal = same_files(artifact->side_files(), model, made, result) && result.tokenizer_equal;
  result.template_equal = same_templates(*artifact, model, result);
  const Provenance provenance = provenance_of(model);
  if (!same_digest(self, "tokenizer_digest", provenance.tokenizer_digest, result)) result.tokenizer_equal = false;
  if (!same_digest(self, "template_digest", provenance.template_digest, result)) result.template_equal = false;
  if (const std::string note = context_note(format, model.config()); !note.empty()) result.notes.push_back(note);
  const auto numbers = number_differences(artifact->numbers(), model.config());
  result.numbers_different = static_cast<int64_t>(numbers.size());
  append(result.differences, numbers);
  auto settings = artifact->setting_differences(model);
  append(settings, comparison.fallback_differences(fallbacks));
  result.settings_different += static_cast<int64_t>(settings.size());
  append(result.differences, settings);
  return result;
}

std::vector<float> artifact_logits(const fs::path& path, const ModelConfig& model, std::span<const int32_t> ids,
                                   Context& context) {
  return open_artifact(path, model)->logits(ids, context);
}

}  // namespace retort
