#include "model/calibration.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "core/base/error.h"
#include "core/base/files.h"

namespace retort {
namespace {

// Bytes per token wanted above which a text is not tokenized whole: that would take longer than all the rest.
constexpr int64_t kLargeText = 32;

int64_t window_length(const ModelConfig& config, int64_t asked, std::string_view operation) {
  if (asked < 0 || asked > config.context_length)
    fail_usage(
        operation, "--sequence-length",
        std::to_string(asked) + " is not within the model's context of " + std::to_string(config.context_length));
  return asked > 0 ? asked : std::min<int64_t>(512, config.context_length);
}

// The first `length` tokens of the text from `begin` on, fewer where it ends before. As in a text tokenized whole, what
// the tokenizer puts before a text stands before its beginning alone.
std::vector<int32_t> tokens_from(const Tokenizer& tokenizer, std::string_view text, size_t begin, int64_t length) {
  const auto wanted = static_cast<size_t>(length);
  const Vocabulary& vocabulary = tokenizer.vocabulary();
  for (size_t bytes = 8 * wanted;; bytes *= 2) {
    const std::string_view piece = text.substr(begin, bytes);
    std::vector<int32_t> ids = tokenizer.encode(piece);
    // The last tokens of a piece that was cut need not be those of the text.
    if (ids.size() < wanted + 16 && begin + piece.size() < text.size()) continue;
    if (begin > 0 && vocabulary.add_bos && !ids.empty() && ids.front() == vocabulary.bos) ids.erase(ids.begin());
    ids.resize(std::min(ids.size(), wanted));
    return ids;
  }
}

// The first line that begins within `spacing` bytes of `place`, or else the first character.
size_t beginning_near(std::string_view text, size_t place, size_t spacing) {
  if (place == 0) return 0;
  const size_t line = text.substr(place, spacing).find('\n');
  if (line != std::string_view::npos && line + 1 < spacing) return place + line + 1;
  while (place < text.size() && (static_cast<unsigned char>(text[place]) & 0xC0) == 0x80) ++place;
  return place;
}

// Windows that begin at evenly spread places.
std::vector<int32_t> spread_windows(const Tokenizer& tokenizer, std::string_view text, int64_t windows,
                                    int64_t length) {
  std::vector<int32_t> ids;
  const size_t spacing = text.size() / static_cast<size_t>(windows);
  for (int64_t i = 0; i < windows; ++i) {
    const size_t begin = beginning_near(text, spacing * static_cast<size_t>(i), spacing);
    const std::vector<int32_t> window = tokens_from(tokenizer, text, begin, length);
    if (static_cast<int64_t>(window.size()) == length) ids.insert(ids.end(), window.begin(), window.end());
  }
  return ids;
}

// Evenly spread windows of the text tokenized whole.
std::vector<int32_t> whole_windows(const Tokenizer& tokenizer, std::string_view text, int64_t windows, int64_t length) {
  const std::vector<int32_t> all = tokenizer.encode(text);
  const int64_t available = static_cast<int64_t>(all.size()) / length;
  std::vector<int32_t> ids;
  for (int64_t i = 0, taken = std::min(windows, available); i < taken; ++i) {
    const auto first = all.begin() + i * available / taken * length;
    ids.insert(ids.end(), first, first + length);
  }
  return ids;
}

}  // namespace

at::Tensor calibration_windows(const ModelSource& source, const std::string& path, int64_t samples, int64_t length,
                               std::string_view operation) {
  if (samples < 1) fail_usage(operation, "--samples", "at least one is needed");
  length = window_length(source.config(), length, operation);
  const auto tokenizer = source.tokenizer();
  const std::string text = read_corpus(path);
  const bool large = static_cast<int64_t>(text.size()) / kLargeText / length >= samples;
  const std::vector<int32_t> ids = (large ? spread_windows : whole_windows)(*tokenizer, text, samples, length);
  if (ids.empty())
    fail(operation, path, "it is less than one window of " + std::to_string(length) + " tokens",
         "Give a longer text or a shorter --sequence-length");
  const auto highest = std::ranges::max_element(ids);
  if (*highest >= source.config().vocab_size)
    fail(operation, source.path().string(),
         "its tokenizer gives the id " + std::to_string(*highest) + ", above the vocabulary of the model");
  return at::tensor(at::ArrayRef<int32_t>(ids), at::kLong).view({-1, length});
}

}  // namespace retort
