#include "quantize/calibration/walk_state.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/base/digest.h"
#include "core/pack/packed_format.h"
#include "model/array_file.h"
#include "model/pair_products.h"
#include "quantize/artifact.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

std::string digest_of(const ModelSource& source, const TensorPlan& plan) {
  const ModelTensor& tensor = *plan.tensor;
  Digest digest;
  digest.update(tensor.name + " " + name_of(tensor.scheme) + " " + name_of(plan.scheme) + " " +
                std::to_string(plan.outliers) + "\n");
  const auto row_bytes = static_cast<int64_t>(dense_bytes(tensor)) / tensor.rows();
  const int64_t piece = std::max<int64_t>(1, (int64_t{8} << 20) / row_bytes);
  std::vector<std::byte> bytes;
  for (int64_t first = 0; first < tensor.rows(); first += piece) {
    const int64_t count = std::min(piece, tensor.rows() - first);
    bytes.resize(static_cast<size_t>(count * row_bytes));
    source.read_dense(tensor, first, count, bytes);
    digest.update(bytes);
  }
  return digest.hex();
}

void write_floats(ArrayWriter& writer, const std::string& name, const std::vector<float>& values) {
  if (!values.empty()) writer.write(name, {static_cast<int64_t>(values.size())}, values);
}

std::vector<float> read_floats(const ArrayReader& reader, const std::string& name) {
  return reader.has(name) ? reader.read_floats(name).values : std::vector<float>{};
}

// One matrix as a JSON text and the parts of its packed format.
void write_solved(ArrayWriter& writer, const std::string& prefix, const SolvedMatrix& solved) {
  Json about{{"method", solved.method},
             {"fallback", solved.fallback},
             {"portable_scales", solved.scale_type == ScaleType::kPortable},
             {"details", solved.details},
             {"seconds", solved.seconds}};
  if (solved.matrix) {
    const QuantizedMatrix& matrix = *solved.matrix;
    about["matrix"] = {
        {"scheme", name_of(matrix.scheme)}, {"rows", matrix.rows}, {"cols", matrix.cols}, {"parts", Json::array()}};
    for (const PackedPart& part : storage_format(matrix.scheme).pack(matrix)) {
      about["matrix"]["parts"].push_back({{"name", part.name}, {"dtype", name_of(part.dtype)}, {"shape", part.shape}});
      writer.write(prefix + std::string(part.name), part.bytes);
    }
  }
  write_floats(writer, prefix + "column-factors", solved.column_factors);
  write_floats(writer, prefix + "row-divisors", solved.row_divisors);
  writer.write(prefix + "about", about.dump());
}

QuantizedMatrix read_matrix(const ArrayReader& reader, const std::string& prefix, const Json& about) {
  std::vector<std::vector<std::byte>> bytes;
  std::vector<PackedPartView> views;
  std::vector<std::string> names;
  for (const Json& part : about["parts"]) names.push_back(part["name"].get<std::string>());
  for (const std::string& name : names) bytes.push_back(reader.read_bytes(prefix + name));
  for (size_t i = 0; i < names.size(); ++i)
    views.push_back({names[i], *parse_dtype(about["parts"][i]["dtype"].get<std::string>()),
                     about["parts"][i]["shape"].get<std::vector<int64_t>>(), bytes[i]});
  const Scheme scheme = parse_scheme(about["scheme"].get<std::string>());
  return storage_format(scheme).unpack(scheme, about["rows"].get<int64_t>(), about["cols"].get<int64_t>(), views,
                                       prefix);
}

SolvedMatrix read_solved(const ArrayReader& reader, const std::string& prefix) {
  const Json about = parse_json(reader.read_text(prefix + "about"), prefix);
  SolvedMatrix solved{.matrix = {},
                      .method = about["method"],
                      .fallback = about["fallback"],
                      .scale_type = about["portable_scales"] ? ScaleType::kPortable : ScaleType::kF16,
                      .details = about["details"],
                      .seconds = about["seconds"]};
  solved.column_factors = read_floats(reader, prefix + "column-factors");
  solved.row_divisors = read_floats(reader, prefix + "row-divisors");
  if (about.contains("matrix")) solved.matrix = read_matrix(reader, prefix, about["matrix"]);
  return solved;
}

bool has_key(const fs::path& path, const std::string& key) {
  const ArrayReader reader(path);
  return reader.has("key") && reader.read_text("key") == key;
}

}  // namespace

std::string run_key(const ModelSource& source, std::span<const TensorPlan> plan, const QuantizeOptions& options,
                    const at::Tensor& windows, const Context& context) {
  const Quantizer& quantizer = find_quantizer(options.method);
  Digest digest;
  digest.update(Json{quantizer.name, quantizer.version, options.group_order, options.damp, options.second_pass,
                     options.aim, options.precision, has_pair_products(), options.scale_type, windows.size(0),
                     source.config().json, context.device.substr(0, context.device.find(':'))}
                    .dump());
  const at::Tensor ids = windows.contiguous();
  digest.update(std::as_bytes(std::span(ids.const_data_ptr<int64_t>(), static_cast<size_t>(ids.numel()))));
  std::vector<std::string> tensors(plan.size());
  context.threads.run(static_cast<int64_t>(plan.size()), [&](int64_t i) {
    tensors[static_cast<size_t>(i)] = digest_of(source, plan[static_cast<size_t>(i)]);
  });
  for (const std::string& tensor : tensors) digest.update(tensor);
  return digest.hex();
}

WalkState::WalkState(fs::path directory, std::string key) : directory_(std::move(directory)), key_(std::move(key)) {
  const fs::path first = file(0);
  if (!fs::exists(first) || !has_key(first, key_)) fs::remove_all(directory_);
  fs::create_directories(directory_);
}

fs::path WalkState::file(int64_t layer) const { return directory_ / ("layer-" + std::to_string(layer) + ".h5"); }

std::optional<SolvedLayer> WalkState::load_layer(int64_t layer) const {
  const fs::path path = file(layer);
  if (!fs::exists(path)) return std::nullopt;
  const ArrayReader reader(path);
  SolvedLayer solved;
  for (const Json& name : parse_json(reader.read_text("names"), path.string()))
    solved.matrices.emplace(name, read_solved(reader, name.get<std::string>() + "."));
  for (const Json& name : parse_json(reader.read_text("vectors"), path.string()))
    solved.vectors.emplace(name, reader.read_floats(name.get<std::string>()).values);
  return solved;
}

void WalkState::save_layer(int64_t layer, const SolvedLayer& solved) {
  ArrayWriter writer(file(layer));
  Json names = Json::array(), vectors = Json::array();
  for (const auto& [name, matrix] : solved.matrices) {
    names.push_back(name);
    write_solved(writer, name + ".", matrix);
  }
  for (const auto& [name, values] : solved.vectors) {
    vectors.push_back(name);
    write_floats(writer, name, values);
  }
  writer.write("key", key_);
  writer.write("names", names.dump());
  writer.write("vectors", vectors.dump());
  writer.commit();
}

}  // namespace retort
