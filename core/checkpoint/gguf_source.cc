#include <algorithm>
#include <cctype>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "core/arch/joined_family.h"
#include "core/base/error.h"
#include "core/checkpoint/chat_templates.h"
#include "core/checkpoint/gguf_model.h"
#include "core/checkpoint/sources.h"
#include "core/pack/packed_format.h"
#include "core/tokenizer/tokenizer_files.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr const char *kRopeFactors = "rope_freqs.weight", *kShortFactors = "rope_factors_short.weight",
                     *kLongFactors = "rope_factors_long.weight";

std::string type_name(const GgufTensorInfo& info) { return std::string(find_ggml_type(info.type)->name); }

// The scheme that a ggml type is; empty for types that are not read.
std::optional<Scheme> scheme_of(const GgufTensorInfo& info) {
  std::string name = type_name(info);
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return find_scheme(name);
}

struct Entry {
  const GgufTensorInfo* info;
  int64_t first, rows;  // the tensor is the rows from `first` on; `rows`: of the stored one
  bool interleaved;     // rows of q and k in the order of ggml's rotary embedding
};

class GgufSource final : public ModelSource {
 public:
  explicit GgufSource(const fs::path& path) : path_(path), file_(path), config_(read_config()) {
    for (const ExpectedTensor& expected : expected_tensors(config_)) add(expected);
    list_extras();
  }

  const fs::path& path() const override { return path_; }
  std::string_view container() const override { return "gguf"; }
  const ModelConfig& config() const override { return config_; }
  std::span<const ModelTensor> tensors() const override { return tensors_; }
  std::span<const std::string> problems() const override { return problems_; }
  std::span<const SideFile> side_files() const override;
  std::string chat_template() const override { return file_.header().string("tokenizer.chat_template").value_or(""); }
  std::unique_ptr<Tokenizer> tokenizer() const override {
    return tokenizer_from_vocabulary(vocabulary_of_gguf(file_.header(), path_.string()), path_.string());
  }

  void read_f32(const ModelTensor& tensor, int64_t first, int64_t count, std::span<float> out) const override;
  void read_dense(const ModelTensor& tensor, int64_t first, int64_t count, std::span<std::byte> out) const override;
  QuantizedMatrix read_quantized_rows(const ModelTensor& tensor, int64_t first, int64_t count) const override;

 private:
  ModelConfig read_config() const;
  Json generation_config(const Vocabulary& vocabulary) const;
  std::vector<SideFile> template_files() const;
  void add(const ExpectedTensor& expected);
  void list_extras();
  const Entry& entry(const ModelTensor& tensor) const;
  std::vector<std::byte> stored_rows(const ModelTensor& tensor, int64_t first, int64_t count) const;

  fs::path path_;
  GgufFile file_;
  ModelConfig config_;
  std::vector<ModelTensor> tensors_;
  std::unordered_map<std::string, Entry> entries_;
  std::vector<std::string> problems_;
  mutable std::once_flag side_files_made_;
  mutable std::vector<SideFile> side_files_;
};

// Names become those of files: others than llama.cpp's converter gives are passed over.
std::vector<SideFile> GgufSource::template_files() const {
  std::vector<SideFile> files;
  const auto is_plain = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  if (const std::string text = chat_template(); !text.empty()) files.push_back({"chat_template.jinja", text});
  const std::vector<std::string>* names = file_.header().strings("tokenizer.chat_templates");
  for (const std::string& name : names == nullptr ? std::vector<std::string>() : *names)
    if (const auto text = file_.header().string("tokenizer.chat_template." + name);
        text && !name.empty() && std::ranges::all_of(name, is_plain) &&
        find_side_file(files, chat_template_file(name)) == nullptr)
      files.push_back({chat_template_file(name), *text});
  return files;
}

// Made of the metadata when they are first asked for.
std::span<const SideFile> GgufSource::side_files() const {
  std::call_once(side_files_made_, [&] {
    side_files_ = template_files();
    if (!file_.header().string("tokenizer.ggml.model")) return;
    const Vocabulary vocabulary = vocabulary_of_gguf(file_.header(), path_.string());
    if (!refuses_tokenizer_files(vocabulary).empty()) return;
    const TokenizerFiles files = tokenizer_files_of(vocabulary);
    side_files_.push_back({"generation_config.json", generation_config(vocabulary).dump(2) + "\n"});
    side_files_.push_back({"tokenizer.json", files.tokenizer});
    side_files_.push_back({"tokenizer_config.json", files.config});
  });
  return side_files_;
}

// What begins, ends and fills up a text.
Json GgufSource::generation_config(const Vocabulary& vocabulary) const {
  Json json = Json::object();
  for (const char* key : {"bos_token_id", "eos_token_id"})
    if (config_.json.contains(key)) json[key] = config_.json[key];
  if (vocabulary.padding) json["pad_token_id"] = *vocabulary.padding;
  return json;
}

ModelConfig GgufSource::read_config() const {
  const GgufHeader& header = file_.header();
  const auto values_of = [&](const char* name) -> std::vector<double> {
    const GgufTensorInfo* info = header.find_tensor(name);
    if (info == nullptr) return {};
    if (type_name(*info) != "F32") fail("gguf", path_.string(), std::string(name) + " is not of the type F32");
    std::vector<float> values(info->bytes / 4);
    decode_to_f32(DType::kF32, file_.data(*info), values);
    return {values.begin(), values.end()};
  };
  const GgufRopeFactors factors{values_of(kRopeFactors), values_of(kShortFactors), values_of(kLongFactors)};
  return parse_config(config_of_gguf(header, factors, path_.string()), path_.string());
}

void GgufSource::add(const ExpectedTensor& expected) {
  const StoredPlace place = stored_place(config_, expected);
  const std::string& name = place.gguf_name;
  const GgufTensorInfo* info = file_.header().find_tensor(name);
  if (info == nullptr) fail("gguf", path_.string(), "the tensor '" + name + "' is missing");
  if (info->shape != place.shape)
    fail("gguf", path_.string(),
         "the tensor '" + name + "' has the shape " + Json(info->shape).dump() + "; the metadata ask for " +
             Json(place.shape).dump());
  const auto scheme = scheme_of(*info);
  if (!scheme)
    fail("gguf", path_.string(), "the tensor '" + name + "' has the type " + type_name(*info) + ", which is not read");
  if (expected.shape.size() < 2 && find_ggml_type(info->type)->block_elements > 1)
    fail("gguf", path_.string(), "the vector '" + name + "' is quantized, which is not read");
  const bool rotary = expected.rule->role == Role::kQuery || expected.rule->role == Role::kKey;
  const bool interleaved = rotary && !place.joined && config_.family->gguf_interleaved_rope;
  entries_.emplace(expected.name, Entry{info, place.first, place.shape.front(), interleaved});
  const uint64_t row_bytes = info->bytes / static_cast<uint64_t>(place.shape.front());
  tensors_.push_back(
      {expected.name, expected.shape, *scheme, row_bytes * static_cast<uint64_t>(expected.shape.front())});
}

void GgufSource::list_extras() {
  std::unordered_set<std::string_view> used{kRopeFactors, kShortFactors, kLongFactors};
  for (const auto& [name, entry] : entries_) used.insert(entry.info->name);
  std::vector<std::string> extra;
  for (const GgufTensorInfo& info : file_.header().tensors)
    if (!used.contains(info.name)) extra.push_back(info.name);
  list_extra_tensors(extra, problems_);
}

const Entry& GgufSource::entry(const ModelTensor& tensor) const {
  const auto at = entries_.find(tensor.name);
  if (at == entries_.end()) fail("checkpoint", path_.string(), "there is no tensor '" + tensor.name + "'");
  return at->second;
}

// The bytes of the rows, in Hugging Face order: whole rows lie together in every type.
std::vector<std::byte> GgufSource::stored_rows(const ModelTensor& tensor, int64_t first, int64_t count) const {
  const Entry& stored = entry(tensor);
  const auto data = file_.data(*stored.info);
  const auto row_bytes = static_cast<int64_t>(data.size()) / stored.rows;
  std::vector<std::byte> rows(static_cast<size_t>(count * row_bytes));
  for (int64_t r = 0; r < count; ++r) {
    const int64_t row = stored.first + first + r;
    const int64_t from = stored.interleaved ? interleaved_row(row, config_.head_dim) : row;
    std::copy_n(data.begin() + from * row_bytes, row_bytes, rows.begin() + r * row_bytes);
  }
  file_.count_read(rows.size());
  return rows;
}

QuantizedMatrix GgufSource::read_quantized_rows(const ModelTensor& tensor, int64_t first, int64_t count) const {
  if (tensor.scheme.is_dense()) fail("checkpoint", tensor.name, "the tensor is not quantized");
  const std::vector<std::byte> rows = stored_rows(tensor, first, count);
  const PackedPartView part{
      "blocks", DType::kU8, {count, static_cast<int64_t>(rows.size()) / std::max<int64_t>(count, 1)}, rows};
  return storage_format(tensor.scheme)
      .unpack(tensor.scheme, count, tensor.cols(), {&part, 1}, path_.string() + " tensor '" + tensor.name + "'");
}

void GgufSource::read_f32(const ModelTensor& tensor, int64_t first, int64_t count, std::span<float> out) const {
  check_rows(tensor, first, count, out.size(), static_cast<size_t>(count * tensor.cols()));
  if (!tensor.scheme.is_dense()) return dequantize_rows(read_quantized_rows(tensor, first, count), 0, count, out);
  const std::vector<std::byte> rows = stored_rows(tensor, first, count);
  decode_to_f32(*tensor.scheme.dense, rows, out);
}

void GgufSource::read_dense(const ModelTensor& tensor, int64_t first, int64_t count, std::span<std::byte> out) const {
  if (!tensor.scheme.is_dense()) fail("checkpoint", tensor.name, "the tensor is quantized");
  const auto elements = static_cast<size_t>(count * tensor.cols());
  check_rows(tensor, first, count, out.size(), elements * size_of(*tensor.scheme.dense));
  std::ranges::copy(stored_rows(tensor, first, count), out.begin());
}

}  // namespace

std::unique_ptr<ModelSource> open_gguf(const fs::path& path) { return std::make_unique<GgufSource>(path); }

std::unique_ptr<Tokenizer> tokenizer_of_gguf(const fs::path& path) {
  const GgufFile file(path);
  return tokenizer_from_vocabulary(vocabulary_of_gguf(file.header(), path.string()), path.string());
}

}  // namespace retort
