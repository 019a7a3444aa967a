// Importance matrices: how active each input column of each matrix is, in llama.cpp's files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace retort {

// What is known of the inputs of one matrix.
struct ColumnActivity {
  std::vector<float> square_sums;          // by column; none negative
  double tokens = 0;                       // that the sums are over, above 0
  std::vector<float> mean_square() const;  // finite
};

struct ImportanceMatrix {
  std::map<std::string, ColumnActivity> entries;  // by GGUF tensor name
  std::vector<std::string> texts;                 // names of the calibration texts
  int64_t windows = 0, window_tokens = 0;         // 0: not known
};

// What llama-imatrix writes: GGUF with "<name>.in_sum2" (sums of squares, f32) and "<name>.counts" (f32) for each
// matrix, or the binary form that it wrote before (number of entries; for each its name, calls, columns, and means of
// squares times calls; then calls in total and the text's name). Entries without tokens, and those of stacked
// experts, are left out. `label` names the file in errors.
ImportanceMatrix parse_imatrix(std::span<const std::byte> file, std::string_view label);
ImportanceMatrix read_imatrix(const std::filesystem::path& path);
// As GGUF, or in the binary form where the name ends in .dat; whole or not at all. An existing file is replaced.
void write_imatrix(const std::filesystem::path& path, const ImportanceMatrix& matrix);

}  // namespace retort
