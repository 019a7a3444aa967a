#include "quantize/imatrix_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/gguf.h"

namespace retort {
namespace {

constexpr std::string_view kMagic = "GGUF", kSums = ".in_sum2", kCounts = ".counts";
constexpr uint32_t kGgmlF32 = 0, kGgufString = 8;

[[noreturn]] void refuse(std::string_view label, const std::string& reason) { fail("imatrix", label, reason); }

void add_entry(ImportanceMatrix& matrix, const std::string& name, std::vector<float> sums, double tokens,
               std::string_view label) {
  if (sums.empty() || !(tokens > 0)) return;
  ColumnActivity activity{.square_sums = std::move(sums), .tokens = tokens};
  if (!std::ranges::all_of(activity.mean_square(), [](float mean) { return mean >= 0 && std::isfinite(mean); }))
    refuse(label, "the entry '" + name + "' holds numbers that are no sums of squares");
  if (!matrix.entries.emplace(name, std::move(activity)).second)
    refuse(label, "the entry '" + name + "' is there twice");
}

std::vector<float> floats_of(std::span<const std::byte> file, const GgufTensorInfo& info, std::string_view label) {
  if (info.type != kGgmlF32) refuse(label, "the tensor '" + info.name + "' is not of the type F32");
  std::vector<float> values(info.bytes / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), file.data() + info.offset, values.size() * sizeof(float));
  return values;
}

ImportanceMatrix parse_gguf_form(std::span<const std::byte> file, std::string_view label) {
  const GgufHeader header = parse_gguf(file, label);
  if (header.string("general.type").value_or("") != "imatrix")
    refuse(label, "it is not an importance matrix: general.type is not \"imatrix\"");
  ImportanceMatrix matrix;
  if (const auto* texts = header.strings("imatrix.datasets")) matrix.texts = *texts;
  matrix.windows = header.integer("imatrix.chunk_count").value_or(0);
  matrix.window_tokens = header.integer("imatrix.chunk_size").value_or(0);
  std::map<std::string_view, const GgufTensorInfo*> tensors;
  for (const GgufTensorInfo& info : header.tensors) tensors.emplace(info.name, &info);
  for (const GgufTensorInfo& info : header.tensors) {
    if (!info.name.ends_with(kSums)) continue;
    const std::string name = info.name.substr(0, info.name.size() - kSums.size());
    const auto counts = tensors.find(name + std::string(kCounts));
    if (counts == tensors.end()) refuse(label, "the tensor '" + name + std::string(kCounts) + "' is missing");
    const std::vector<float> count = floats_of(file, *counts->second, label);
    if (count.size() != 1) continue;  // of stacked experts
    add_entry(matrix, name, floats_of(file, info, label), count.front(), label);
  }
  return matrix;
}

// Numbers and texts of the binary form, each checked against what is left of the file.
class BinaryReader {
 public:
  BinaryReader(std::span<const std::byte> file, std::string_view label) : left_(file), label_(label) {}
  bool at_end() const { return left_.empty(); }
  int32_t number() {
    int32_t value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    if (value < 0) refuse(label_, "it is no importance matrix: a size is negative");
    return value;
  }
  std::string text() {
    const auto bytes = take(static_cast<size_t>(number()));
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::vector<float> floats() {
    const auto count = static_cast<size_t>(number());
    const auto bytes = take(count * sizeof(float));
    std::vector<float> values(count);
    if (count > 0) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }

 private:
  std::span<const std::byte> take(size_t size) {
    if (size > left_.size()) refuse(label_, "it is no importance matrix, or it is cut short");
    const auto bytes = left_.first(size);
    left_ = left_.subspan(size);
    return bytes;
  }

  std::span<const std::byte> left_;
  std::string_view label_;
};

ImportanceMatrix parse_binary_form(std::span<const std::byte> file, std::string_view label) {
  BinaryReader reader(file, label);
  ImportanceMatrix matrix;
  for (int32_t left = reader.number(); left > 0; --left) {
    const std::string name = reader.text();
    const int32_t calls = reader.number();
    add_entry(matrix, name, reader.floats(), calls, label);
  }
  if (reader.at_end()) return matrix;
  matrix.windows = reader.number();
  matrix.texts.push_back(reader.text());
  return matrix;
}

// Two tensors for each entry, in the order of the names.
GgufHeader header_of(const ImportanceMatrix& matrix) {
  GgufHeader header;
  const auto texts = std::make_shared<GgufArray>(GgufArray{kGgufString, matrix.texts});
  header.metadata = {{"general.type", std::string("imatrix")},
                     {"imatrix.datasets", texts},
                     {"imatrix.chunk_count", static_cast<uint32_t>(matrix.windows)},
                     {"imatrix.chunk_size", static_cast<uint32_t>(matrix.window_tokens)}};
  for (const auto& [name, activity] : matrix.entries) {
    const auto columns = static_cast<int64_t>(activity.square_sums.size());
    header.tensors.push_back({name + std::string(kSums), kGgmlF32, {columns}, 0, activity.square_sums.size() * 4});
    header.tensors.push_back({name + std::string(kCounts), kGgmlF32, {1}, 0, sizeof(float)});
  }
  return header;
}

void put_number(std::string& bytes, size_t number) {
  const auto value = static_cast<int32_t>(number);
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_text(std::string& bytes, const std::string& text) {
  put_number(bytes, text.size());
  bytes += text;
}

std::string binary_form(const ImportanceMatrix& matrix) {
  const auto calls = static_cast<size_t>(std::max<int64_t>(1, matrix.windows));
  std::string bytes;
  put_number(bytes, matrix.entries.size());
  for (const auto& [name, activity] : matrix.entries) {
    std::vector<float> means = activity.mean_square();
    for (float& mean : means) mean *= static_cast<float>(calls);
    put_text(bytes, name);
    put_number(bytes, calls);
    put_number(bytes, means.size());
    bytes.append(reinterpret_cast<const char*>(means.data()), means.size() * sizeof(float));
  }
  put_number(bytes, calls);
  put_text(bytes, matrix.texts.empty() ? std::string() : matrix.texts.front());
  return bytes;
}

void write_gguf_form(const std::filesystem::path& path, const ImportanceMatrix& matrix) {
  GgufWriter writer(path, header_of(matrix));
  for (const auto& [name, activity] : matrix.entries) {
    writer.append(std::as_bytes(std::span(activity.square_sums)));
    const auto tokens = static_cast<float>(activity.tokens);
    writer.append(std::as_bytes(std::span(&tokens, 1)));
  }
  writer.finish();
}

}  // namespace

std::vector<float> ColumnActivity::mean_square() const {
  std::vector<float> means;
  for (const float sum : square_sums) means.push_back(static_cast<float>(sum / tokens));
  return means;
}

ImportanceMatrix parse_imatrix(std::span<const std::byte> file, std::string_view label) {
  const bool gguf = file.size() >= kMagic.size() && std::memcmp(file.data(), kMagic.data(), kMagic.size()) == 0;
  ImportanceMatrix matrix = gguf ? parse_gguf_form(file, label) : parse_binary_form(file, label);
  if (matrix.entries.empty()) refuse(label, "it holds no importance of any matrix");
  return matrix;
}

ImportanceMatrix read_imatrix(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_imatrix(file.bytes(), path.string());
}

void write_imatrix(const std::filesystem::path& path, const ImportanceMatrix& matrix) {
  StagedOutput output(path, StagedOutput::Kind::kFile, /*overwrite=*/true);
  if (path.extension() == ".dat")
    write_text_file(output.staging(), binary_form(matrix));
  else
    write_gguf_form(output.staging(), matrix);
  output.commit();
}

}  // namespace retort
