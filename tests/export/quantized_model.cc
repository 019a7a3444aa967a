#include "tests/export/quantized_model.h"

#include "core/arch/family.h"
#include "core/pack/block_types.h"

namespace retort::testing {
namespace {

float random_scale(Random& random, double least) {
  return f16_to_f32(f32_to_f16(static_cast<float>(least * (1 + 10 * random.uniform()))));
}

void randomize_super_scales(QuantizedMatrix& m, Random& random) {
  const BlockInfo& info = block_info(m.scheme.block);
  for (auto& scale : m.super.scales) scale = random_scale(random, 3e-5);
  for (auto& minimum : m.super.minima) minimum = random_scale(random, 3e-5);
  for (auto& code : m.super.scale_codes)
    code = static_cast<int8_t>(info.least_scale + random.below(info.most_scale - info.least_scale + 1));
  for (auto& code : m.super.minimum_codes) code = static_cast<uint8_t>(random.below(info.most_minimum + 1));
  expand_super_scales(m, 0, m.rows);
}

QuantizedMatrix random_matrix(const Scheme& scheme, int64_t rows, int64_t cols, Random& random) {
  QuantizedMatrix m = make_quantized(scheme, rows, cols);
  const int64_t codes = int64_t{1} << scheme.bits;
  for (auto& code : m.codes) code = static_cast<uint8_t>(random.below(codes));
  for (auto& zero : m.zeros) zero = static_cast<uint8_t>(random.below(codes));
  for (auto& scale : m.scales) scale = random_scale(random, 1e-3);
  for (auto& minimum : m.minima) minimum = random_scale(random, 1e-3);
  if (scheme.is_super_block()) randomize_super_scales(m, random);
  return m;
}

bool is_quantized(const ExpectedTensor& expected, const Scheme& scheme, bool everything) {
  if (expected.shape.size() != 2 || !scheme.fits(expected.shape[1])) return false;
  return everything || expected.rule->input != Input::kNone;
}

}  // namespace

std::unique_ptr<ModelSource> quantized_model(const std::filesystem::path& directory, const TinyModel& shape,
                                             const std::string& scheme_name, bool everything, const Edit& edit) {
  const std::filesystem::path dense = directory / "dense", quantized = directory / "quantized";
  write_tiny_model(dense, shape);
  std::filesystem::create_directories(quantized);
  const auto source = open_model(dense);
  const Scheme scheme = parse_scheme(scheme_name);
  ModelWriter writer(quantized, source->side_files());
  Random random(7);
  for (const ExpectedTensor& expected : expected_tensors(source->config())) {
    const ModelTensor& tensor = source->at(expected.name);
    if (!is_quantized(expected, scheme, everything)) {
      writer.add_f32(tensor.name, *tensor.scheme.dense, tensor.shape, source->read_f32(tensor));
      continue;
    }
    QuantizedMatrix matrix = random_matrix(scheme, tensor.rows(), tensor.cols(), random);
    if (edit) edit(tensor.name, matrix);
    writer.add_quantized(tensor.name, matrix);
  }
  writer.finish(source->config().json, nullptr);
  return open_model(quantized);
}

void scatter_groups(QuantizedMatrix& matrix) {
  matrix.column_group.clear();
  for (int64_t c = 0; c < matrix.cols; ++c) matrix.column_group.push_back(static_cast<int32_t>(c % matrix.groups()));
}

}  // namespace retort::testing
