// Hugging Face directories: dense tensors as they are, quantized matrices in several parts (stored_weights.h).
#include <algorithm>
#include <deque>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "core/arch/joined_family.h"
#include "core/base/error.h"
#include "core/checkpoint/shard_set.h"
#include "core/checkpoint/sources.h"
#include "core/checkpoint/stored_weights.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

// One tensor of the model: a dense one is stored as one tensor, a quantized one in parts.
struct Entry {
  std::vector<StoredTensor> stored;
  std::optional<StoredWeight> weight;
  std::vector<PackedPartView> parts;  // views of `stored`
};

DType dense_type(DType stored) { return stored == DType::kF16 || stored == DType::kBF16 ? stored : DType::kF32; }

std::string text_of(const std::vector<int64_t>& shape) { return Json(shape).dump(); }

// generation_config.json wins over config.json: it is what transformers generates by.
void read_eos_ids(const SideFile* file, ModelConfig& config, const std::string& label) {
  if (file == nullptr) return;
  const Json json = parse_json(file->bytes, label);
  const auto eos = json.is_object() ? json.find("eos_token_id") : json.end();
  if (!json.is_object() || eos == json.end() || eos->is_null()) return;
  config.eos_ids.clear();
  for (const Json& id : eos->is_array() ? *eos : Json::array({*eos})) {
    if (!id.is_number_integer()) fail("config", label, "eos_token_id is not a number or a list of numbers");
    config.eos_ids.push_back(id.get<int64_t>());
  }
}

class DirectorySource final : public ModelSource {
 public:
  explicit DirectorySource(const fs::path& path)
      : path_(path),
        config_label_((path / "config.json").string()),
        config_(parse_config(read_config(), config_label_)),
        quantization_(config_, config_label_),
        shards_(path) {
    side_files_ = read_side_files(path);
    if (config_.stored_as != nullptr && quantization_.present())
      fail("checkpoint", config_label_,
           "quantized models of the model_type '" + std::string(config_.stored_as->model_type) + "' are not read",
           "Give the model that this one was made from");
    read_eos_ids(side_file("generation_config.json"), config_, (path / "generation_config.json").string());
    for (const ExpectedTensor& expected : expected_tensors(config_)) add(expected);
    list_extras();
  }

  const fs::path& path() const override { return path_; }
  std::string_view container() const override { return quantization_.container(); }
  const ModelConfig& config() const override { return config_; }
  std::span<const ModelTensor> tensors() const override { return tensors_; }
  std::span<const std::string> problems() const override { return problems_; }
  std::span<const SideFile> side_files() const override { return side_files_; }
  std::string chat_template() const override { return chat_template_of_side_files(side_files(), path().string()); }
  std::unique_ptr<Tokenizer> tokenizer() const override {
    return tokenizer_from_side_files(side_files(), path_.string());
  }

  void read_f32(const ModelTensor& tensor, int64_t first, int64_t count, std::span<float> out) const override;
  void read_dense(const ModelTensor& tensor, int64_t first, int64_t count, std::span<std::byte> out) const override;
  QuantizedMatrix read_quantized_rows(const ModelTensor& tensor, int64_t first, int64_t count) const override;

 private:
  Json read_config() const;
  void add(const ExpectedTensor& expected);
  void add_dense(const ExpectedTensor& expected);
  StoredTensor stored_of(const ExpectedTensor& expected);
  void check_shape(const StoredTensor& stored, const std::vector<int64_t>& shape) const;
  void add_quantized(const ExpectedTensor& expected, Entry entry);
  Entry parts_of(const ExpectedTensor& expected) const;
  void add_problem(std::string problem);
  [[noreturn]] void missing(const std::string& name) const;
  void check_tied_head();
  void list_extras();

  const Entry& entry(const ModelTensor& tensor) const;
  QuantizedMatrix read_rows(const ModelTensor& tensor, int64_t first, int64_t count) const;

  fs::path path_;
  std::string config_label_;
  ModelConfig config_;
  StoredQuantization quantization_;
  ShardSet shards_;
  std::deque<TensorInfo> joined_;  // what entries point to: rows of matrices that are stored as one
  std::vector<ModelTensor> tensors_;
  std::unordered_map<std::string, Entry> entries_;
  std::unordered_set<std::string> used_;  // stored tensors that belong to the model
  std::vector<std::string> problems_;
  std::vector<SideFile> side_files_;
};

Json DirectorySource::read_config() const {
  if (!fs::exists(path_ / "config.json")) fail("checkpoint", path_.string(), "there is no config.json");
  return read_json_file(path_ / "config.json");
}

void DirectorySource::missing(const std::string& name) const {
  fail("checkpoint", path_.string(), "the tensor '" + name + "' is missing");
}

void DirectorySource::add_problem(std::string problem) {
  if (std::ranges::find(problems_, problem) == problems_.end()) problems_.push_back(std::move(problem));
}

Entry DirectorySource::parts_of(const ExpectedTensor& expected) const {
  Entry entry;
  if (expected.shape.size() != 2) return entry;
  for (const StoredPart& part : quantization_.parts()) {
    const StoredTensor* stored = shards_.find(quantization_.part_name(expected.name, part));
    if (stored == nullptr) continue;
    entry.stored.push_back(*stored);
    entry.parts.push_back({part.name, stored->info->dtype, stored->info->shape, stored->bytes()});
  }
  entry.weight = quantization_.find(expected.name, expected.shape[0], expected.shape[1], entry.parts);
  return entry;
}

void DirectorySource::add(const ExpectedTensor& expected) {
  Entry entry = parts_of(expected);
  if (!entry.weight) return add_dense(expected);
  add_quantized(expected, std::move(entry));
}

void DirectorySource::check_shape(const StoredTensor& stored, const std::vector<int64_t>& shape) const {
  if (stored.info->shape != shape)
    fail("checkpoint", stored.file->file().path().string(),
         "the tensor '" + stored.info->name + "' has the shape " + text_of(stored.info->shape) +
             "; config.json asks for " + text_of(shape));
}

StoredTensor DirectorySource::stored_of(const ExpectedTensor& expected) {
  const StoredPlace place = stored_place(config_, expected);
  const StoredTensor* stored = shards_.find(place.hf_name);
  if (stored == nullptr) missing(place.hf_name);
  check_shape(*stored, place.shape);
  used_.insert(place.hf_name);
  if (!place.joined) return *stored;
  const uint64_t row_bytes = stored->info->bytes / static_cast<uint64_t>(place.shape.front());
  TensorInfo& rows = joined_.emplace_back(*stored->info);
  rows.shape = expected.shape;
  rows.bytes = row_bytes * static_cast<uint64_t>(expected.shape.front());
  rows.offset += row_bytes * static_cast<uint64_t>(place.first);
  return {stored->file, &rows};
}

void DirectorySource::add_dense(const ExpectedTensor& expected) {
  const StoredTensor stored = stored_of(expected);
  const DType stored_type = stored.info->dtype, type = dense_type(stored_type);
  if (stored_type != type)
    problems_.push_back("the tensor '" + expected.name + "' is stored as " + std::string(name_of(stored_type)) +
                        " and read as f32");
  entries_.emplace(expected.name, Entry{{stored}, {}, {}});
  const std::string name(stored_type == type ? "" : name_of(stored_type));
  tensors_.push_back({expected.name, expected.shape, parse_scheme(name_of(type)), stored.info->bytes, name});
}

void DirectorySource::add_quantized(const ExpectedTensor& expected, Entry entry) {
  if (entry.parts.empty()) missing(expected.name);
  const StoredWeight& weight = *entry.weight;
  ModelTensor tensor{expected.name, expected.shape, weight.scheme, 0, {}};
  for (const StoredTensor& stored : entry.stored) {
    used_.insert(stored.info->name);
    tensor.bytes += stored.info->bytes;
  }
  for (const PackedPartView& part : entry.parts)
    if (part.name == "outlier_columns" && !part.shape.empty()) tensor.outliers = part.shape[0];
  if (!weight.problem.empty()) add_problem(weight.problem);
  if (!weight.f16_scales) {
    tensor.scheme = parse_scheme("f32");
    tensor.stored = name_of(weight.scheme);
    tensor.integers_lost = "some of its scales are numbers that f16 does not hold";
    add_problem("some scales are numbers that f16 does not hold: the weights that have them are read as f32");
  }
  entries_.emplace(expected.name, std::move(entry));
  read_rows(tensor, 0, 1);  // checks the types and shapes of all parts
  tensors_.push_back(std::move(tensor));
}

// A tied model may store its head all the same. transformers versions disagree on which of two different matrices
// counts, so only an equal one is accepted.
void DirectorySource::check_tied_head() {
  const std::string name = tensor_name(config_, Role::kHead), embedding = tensor_name(config_, Role::kEmbedding);
  const StoredTensor* head = shards_.find(name);
  const StoredTensor* table = shards_.find(embedding);
  if (!config_.tied_embeddings || head == nullptr || used_.contains(name)) return;
  const bool equal =
      table != nullptr && head->info->dtype == table->info->dtype && std::ranges::equal(head->bytes(), table->bytes());
  if (!equal)
    fail(
        "checkpoint", path_.string(),
        "config.json ties the head to the embedding, but '" + name + "' is stored and differs from '" + embedding + "'",
        "Set tie_word_embeddings to false to use it, or remove the tensor");
  used_.insert(name);
  problems_.push_back("the tensor '" + name + "' repeats '" + embedding + "' and is ignored: the model is tied");
}

void DirectorySource::list_extras() {
  check_tied_head();
  std::vector<std::string> names;
  for (const StoredTensor& stored : shards_.tensors())
    if (!used_.contains(stored.info->name)) names.push_back(stored.info->name);
  list_extra_tensors(names, problems_);
}

const Entry& DirectorySource::entry(const ModelTensor& tensor) const {
  const auto at = entries_.find(tensor.name);
  if (at == entries_.end()) fail("checkpoint", path_.string(), "there is no tensor '" + tensor.name + "'");
  return at->second;
}

QuantizedMatrix DirectorySource::read_rows(const ModelTensor& tensor, int64_t first, int64_t count) const {
  const Entry& stored = entry(tensor);
  QuantizedMatrix matrix = quantization_.unpack(*stored.weight, tensor.rows(), tensor.cols(), stored.parts, first,
                                                count, path_.string() + " tensor '" + tensor.name + "'");
  shards_.count_read(quantization_.bytes_read(tensor.rows(), stored.parts, first, count));
  return matrix;
}

QuantizedMatrix DirectorySource::read_quantized_rows(const ModelTensor& tensor, int64_t first, int64_t count) const {
  if (tensor.scheme.is_dense()) fail("checkpoint", tensor.name, "the tensor is not quantized");
  return read_rows(tensor, first, count);
}

void DirectorySource::read_f32(const ModelTensor& tensor, int64_t first, int64_t count, std::span<float> out) const {
  check_rows(tensor, first, count, out.size(), static_cast<size_t>(count * tensor.cols()));
  if (entry(tensor).weight) return dequantize_rows(read_rows(tensor, first, count), 0, count, out);
  const StoredTensor& stored = entry(tensor).stored.front();
  const size_t row_bytes = stored.info->bytes / static_cast<size_t>(tensor.rows());
  const auto rows =
      stored.bytes().subspan(static_cast<size_t>(first) * row_bytes, static_cast<size_t>(count) * row_bytes);
  decode_to_f32(stored.info->dtype, rows, out);
  shards_.count_read(rows.size());
}

void DirectorySource::read_dense(const ModelTensor& tensor, int64_t first, int64_t count,
                                 std::span<std::byte> out) const {
  if (!tensor.scheme.is_dense()) fail("checkpoint", tensor.name, "the tensor is quantized");
  const size_t elements = static_cast<size_t>(count * tensor.cols());
  check_rows(tensor, first, count, out.size(), elements * size_of(*tensor.scheme.dense));
  const StoredTensor& stored = entry(tensor).stored.front();
  if (entry(tensor).weight || stored.info->dtype != *tensor.scheme.dense) {
    std::vector<float> values(elements);
    read_f32(tensor, first, count, values);
    return encode_from_f32(*tensor.scheme.dense, values, out);
  }
  const size_t row_bytes = stored.info->bytes / static_cast<size_t>(tensor.rows());
  const auto rows = stored.bytes().subspan(static_cast<size_t>(first) * row_bytes, out.size());
  std::ranges::copy(rows, out.begin());
  shards_.count_read(rows.size());
}

}  // namespace

std::unique_ptr<ModelSource> open_directory(const fs::path& directory) {
  return std::make_unique<DirectorySource>(directory);
}

void list_extra_tensors(const std::vector<std::string>& names, std::vector<std::string>& problems) {
  constexpr size_t kListed = 16;
  for (size_t i = 0; i < std::min(names.size(), kListed); ++i)
    problems.push_back("the tensor '" + names[i] + "' does not belong to a model of this configuration and is ignored");
  if (names.size() > kListed)
    problems.push_back("and " + std::to_string(names.size() - kListed) + " more such tensors");
}

}  // namespace retort
