// GPTQ checkpoints: safetensors with qweight, qzeros, scales and g_idx for each linear layer, and the settings in
// config.json and quantize_config.json. One width and one group size serve the whole model.
#include <algorithm>
#include <map>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/safetensors.h"
#include "core/pack/packed_format.h"
#include "core/pack/parts.h"
#include "export/formats.h"
#include "export/tensors.h"

namespace retort {
namespace {

// The width that most weights have, the smallest group of those, and zero points if any of them has some.
Scheme common_scheme(const ModelSource& source) {
  std::map<int, int64_t> elements;
  std::vector<Scheme> schemes;
  for (const ExpectedTensor& expected : expected_tensors(source.config())) {
    const ModelTensor& tensor = source.at(expected.name);
    if (tensor.scheme.is_dense() || expected.rule->input == Input::kNone) continue;
    elements[tensor.scheme.bits] += tensor.elements();
    schemes.push_back(tensor.scheme);
  }
  if (schemes.empty())
    fail("export", source.path().string(), "it has no integer weights to keep",
         "Quantize it first, or use --format hf");
  const auto less = [](const auto& a, const auto& b) { return a.second < b.second; };
  Scheme common{.bits = std::ranges::max_element(elements, less)->first,
                .granularity = Granularity::kChannel,
                .group = 0,
                .dense = {}};
  for (const Scheme& scheme : schemes) {
    if (scheme.bits != common.bits) continue;
    common.symmetric = common.symmetric && scheme.symmetric;
    if (scheme.granularity != Granularity::kGroup) continue;
    common.group = common.granularity == Granularity::kGroup ? std::min(common.group, scheme.group) : scheme.group;
    common.granularity = Granularity::kGroup;
  }
  return common;
}

class GptqExporter : public ArtifactWriter {
 public:
  GptqExporter(const ModelSource& source, const ExportOptions&)
      : source_(source), scheme_(common_scheme(source)), layout_(packed_format(version())) {}

  std::string refuses(const PlannedTensor& planned, const QuantizedMatrix& m) const override {
    const auto number = [](int64_t value) { return std::to_string(value); };
    if (planned.rule->input == Input::kNone) return "only the linear weights of layers have a place in it";
    if (m.scheme.bits != scheme_.bits)
      return "it has " + number(m.scheme.bits) + " bits, and the one width of the file is " + number(scheme_.bits);
    const int64_t from = m.scheme.group_size(m.cols), to = scheme_.group_size(m.cols);
    if (m.cols % to != 0 || from % to != 0 || (from != to && !groups_in_order(m)))
      return "its groups of " + number(from) + " are not whole groups of " + number(to) + ", the one size of the file";
    QuantizedMatrix shape{
        .scheme = scheme_, .rows = m.rows, .cols = m.cols, .codes = {}, .scales = {}, .zeros = {}, .column_group = {}};
    return layout_.refuses(shape);
  }

  void begin(const std::filesystem::path& path, std::span<const PlannedTensor> plan) override {
    directory_ = path;
    weights_ = std::make_unique<SafetensorsWriter>(path);
    for (const PlannedTensor& planned : plan)
      if (planned.dense && planned.rule->input != Input::kNone && planned.rule->part == Part::kWeight)
        skipped_.push_back(module_name(planned));
    notes_ = fallback_notes(plan);
  }

  void write(const PlannedTensor& planned) override {
    const ModelTensor& tensor = *planned.tensor;
    if (planned.dense) {
      weights_->begin(tensor.name, *planned.dense, tensor.shape);
      return stream_dense(source_, tensor, *planned.dense,
                          [&](std::span<const std::byte> bytes) { weights_->append(bytes); });
    }
    QuantizedMatrix matrix = source_.read_quantized(tensor);
    activation_order_ = activation_order_ || !groups_in_order(matrix);
    std::vector<int32_t> column_group = std::move(matrix.column_group);
    matrix.column_group.clear();
    if (matrix.scheme != scheme_) matrix = regrouped(matrix, scheme_);
    if (scheme_.group_size(matrix.cols) == tensor.scheme.group_size(matrix.cols))
      matrix.column_group = std::move(column_group);
    for (const PackedPart& part : layout_.pack(matrix))
      weights_->add(module_name(planned) + "." + std::string(part.name), part.dtype, part.shape, part.bytes);
  }

  void finish() override {
    weights_->finish();
    write_side_files(source_, directory_);
    Json config = plain_config(source_.config());
    config["quantization_config"] = settings();
    write_text_file(directory_ / "config.json", config.dump(2) + "\n");
    write_text_file(directory_ / "quantize_config.json", settings().dump(2) + "\n");
  }

 private:
  const char* version() const { return scheme_.symmetric ? "gptq" : "gptq_v2"; }

  static std::string module_name(const PlannedTensor& planned) {
    const std::string& name = planned.tensor->name;
    return name.substr(0, name.rfind('.'));
  }

  Json settings() const {
    Json json{{"quant_method", "gptq"},
              {"bits", scheme_.bits},
              {"group_size", scheme_.granularity == Granularity::kGroup ? scheme_.group : -1},
              {"desc_act", activation_order_},
              {"sym", scheme_.symmetric},
              {"lm_head", false},
              {"true_sequential", false},
              {"checkpoint_format", version()},
              {"pack_dtype", "int32"}};
    // GPTQModel's way to say that a module is not quantized.
    for (const std::string& module : skipped_) json["dynamic"]["-:^" + escaped(module) + "$"] = Json::object();
    json["meta"] = {{"quantizer", Json::array({"retort"})}};
    if (!notes_.empty()) json["meta"]["fallbacks"] = notes_;
    return json;
  }

  static std::string escaped(const std::string& text) {
    std::string pattern;
    for (const char c : text) pattern += c == '.' ? std::string("\\.") : std::string(1, c);
    return pattern;
  }

  const ModelSource& source_;
  const Scheme scheme_;
  const PackedFormat& layout_;
  std::filesystem::path directory_;
  std::unique_ptr<SafetensorsWriter> weights_;
  bool activation_order_ = false;
  std::vector<std::string> skipped_, notes_;
};

}  // namespace

std::unique_ptr<ArtifactWriter> make_gptq_writer(const ModelSource& source, const ExportOptions& options) {
  return std::make_unique<GptqExporter>(source, options);
}

}  // namespace retort
