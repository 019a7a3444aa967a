#include "core/base/error.h"
#include "core/checkpoint/model_source.h"
#include "core/checkpoint/safetensors.h"
#include "core/pack/packed_format.h"

namespace fs = std::filesystem;

namespace retort {

namespace {

void check_storable(const QuantizedMatrix& matrix, const std::string& name) {
  check_matrix(matrix, name);
  if (const std::string reason = storage_format(matrix.scheme).refuses(matrix); !reason.empty())
    fail("checkpoint", name, reason);
}

}  // namespace

struct ModelWriter::Impl {
  explicit Impl(fs::path path) : directory(std::move(path)), tensors(directory) {}
  fs::path directory;
  SafetensorsWriter tensors;
  Json schemes = Json::object();
  int version = 1;  // 2 with columns in 16 bits, which a program that knows nothing of them must not leave out
};

ModelWriter::ModelWriter(fs::path directory, std::span<const SideFile> side_files)
    : impl_(std::make_unique<Impl>(std::move(directory))) {
  write_side_files(side_files, impl_->directory);
}

ModelWriter::~ModelWriter() = default;

void ModelWriter::add_dense(const std::string& name, DType dtype, const std::vector<int64_t>& shape,
                            std::span<const std::byte> bytes) {
  impl_->tensors.add(name, dtype, shape, bytes);
}

void ModelWriter::begin_dense(const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
  impl_->tensors.begin(name, dtype, shape);
}

void ModelWriter::append(std::span<const std::byte> bytes) { impl_->tensors.append(bytes); }

void ModelWriter::add_f32(const std::string& name, DType dtype, const std::vector<int64_t>& shape,
                          std::span<const float> values) {
  std::vector<std::byte> bytes(values.size() * size_of(dtype));
  encode_from_f32(dtype, values, bytes);
  impl_->tensors.add(name, dtype, shape, bytes);
}

void ModelWriter::add_quantized(const std::string& name, const QuantizedMatrix& matrix) {
  check_storable(matrix, name);
  for (const PackedPart& part : storage_format(matrix.scheme).pack(matrix))
    impl_->tensors.add(name + "." + std::string(part.name), part.dtype, part.shape, part.bytes);
  impl_->schemes[name] = name_of(matrix.scheme);
  if (!matrix.outlier_columns.empty()) impl_->version = 2;
}

bool ModelWriter::add_quantized(const std::string& name, const Scheme& scheme, const MatrixRuns& runs,
                                ThreadPool& threads) {
  const MatrixRuns checked{runs.rows, runs.cols, runs.step, [&](int64_t first, int64_t count) {
                             std::optional<QuantizedMatrix> rows = runs.make(first, count);
                             if (rows) check_storable(*rows, name);
                             return rows;
                           }};
  bool begun = false;
  const auto begin = [&](const PackedPart& part) {
    impl_->tensors.begin(name + "." + std::string(part.name), part.dtype, part.shape);
    begun = true;
  };
  const auto append = [&](std::span<const std::byte> bytes) { impl_->tensors.append(bytes); };
  if (!pack_runs(checked, storage_format(scheme), /*row_axis=*/0, {begin, append}, threads)) {
    if (begun) impl_->tensors.drop();
    return false;
  }
  impl_->schemes[name] = name_of(scheme);
  return true;
}

void ModelWriter::finish(const Json& config_json, const Json& report) {
  impl_->tensors.finish();
  Json config = config_json;
  config.erase("quantization_config");
  if (!impl_->schemes.empty())
    config["quantization_config"] = {
        {"quant_method", "retort"}, {"version", impl_->version}, {"tensors", impl_->schemes}};
  if (!report.is_null()) write_text_file(impl_->directory / "retort.json", report.dump(2) + "\n");
  write_text_file(impl_->directory / "config.json", config.dump(2) + "\n");
}

}  // namespace retort
