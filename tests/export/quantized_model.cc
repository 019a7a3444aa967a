#include "tests/export/quantized_model.h"

#include "core/arch/family.h"
#include "tests/support/memory_source.h"

namespace retort::testing {
namespace {

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
    QuantizedMatrix matrix = random_quantized(scheme, tensor.rows(), tensor.cols(), random);
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
