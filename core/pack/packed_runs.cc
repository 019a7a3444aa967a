#include "core/pack/packed_runs.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "core/base/in_order.h"

namespace retort {
namespace {

// Parts of runs of rows on their way to the parts of the whole. With rows along the first axis the first part is not
// among them: its runs follow each other in the file.
class PartJoiner {
 public:
  // `parts` of the first `count` rows: whole elements along the rows, which tell how many of them the whole has.
  PartJoiner(int64_t rows, int row_axis, std::span<const PackedPart> parts, int64_t count)
      : rows_(rows), row_axis_(row_axis), streamed_(row_axis == 0 ? 1 : 0) {
    for (const PackedPart& part : parts) {
      PackedPart& whole = whole_.emplace_back(PackedPart{part.name, part.dtype, part.shape, {}});
      if (part.shape.size() < 2) continue;
      int64_t& extent = row_axis == 0 ? whole.shape.front() : whole.shape.back();
      extent = extent * rows / count;
    }
    for (size_t i = streamed_; i < parts.size(); ++i)
      whole_[i].bytes.resize(whole_[i].shape.size() < 2
                                 ? parts[i].bytes.size()
                                 : parts[i].bytes.size() * static_cast<size_t>(rows) / static_cast<size_t>(count));
  }

  // Nothing where no part is streamed.
  const PackedPart* streamed() const { return streamed_ == 1 ? &whole_.front() : nullptr; }
  // Thread-safe for different rows.
  void place(std::span<const PackedPart> parts, int64_t first) {
    for (size_t i = streamed_; i < parts.size(); ++i)
      if (first == 0 || parts[i].shape.size() >= 2) place(parts[i], first, whole_[i]);
  }
  // The parts that are not streamed.
  std::span<PackedPart> joined() { return std::span(whole_).subspan(streamed_); }

 private:
  void place(const PackedPart& part, int64_t first, PackedPart& whole) const {
    const size_t lines = row_axis_ == 0 || part.shape.size() < 2 ? 1 : part.bytes.size() / line_bytes(part);
    const size_t line = part.bytes.size() / lines, stride = whole.bytes.size() / lines;
    const size_t from = stride * static_cast<size_t>(first) / static_cast<size_t>(rows_);
    for (size_t i = 0; i < lines; ++i)
      std::memcpy(whole.bytes.data() + i * stride + from, part.bytes.data() + i * line, line);
  }
  static size_t line_bytes(const PackedPart& part) {
    return static_cast<size_t>(part.shape.back()) * size_of(part.dtype);
  }

  int64_t rows_;
  int row_axis_;
  size_t streamed_;  // how many parts, at the front
  std::vector<PackedPart> whole_;
};

}  // namespace

bool pack_runs(const MatrixRuns& runs, const PackedFormat& format, int row_axis, const PartSink& sink,
               ThreadPool& threads) {
  using Parts = std::vector<PackedPart>;
  const auto pack = [&](int64_t first, int64_t count) {
    const std::optional<QuantizedMatrix> rows = runs.make(first, count);
    return rows ? std::optional(format.pack_rows(*rows)) : std::nullopt;
  };
  const int64_t leading = std::min(runs.step, runs.rows);
  std::optional<Parts> lead = pack(0, leading);
  if (!lead) return false;
  PartJoiner joiner(runs.rows, row_axis, *lead, leading);
  if (joiner.streamed() != nullptr) sink.begin(*joiner.streamed());
  std::atomic<bool> given_up = false;
  const auto make = [&](int64_t first, int64_t count) -> std::vector<std::byte> {
    std::optional<Parts> parts = given_up ? std::nullopt : first == 0 ? std::move(lead) : pack(first, count);
    if (!parts) return given_up = true, std::vector<std::byte>();
    joiner.place(*parts, first);
    return std::move(parts->front().bytes);
  };
  in_order(runs.rows, runs.step, threads, make, [&](const std::vector<std::byte>& bytes) {
    if (joiner.streamed() != nullptr && !given_up) sink.append(bytes);
  });
  if (given_up) return false;
  if (format.finish_parts != nullptr) format.finish_parts(joiner.joined(), runs.rows, runs.cols);
  for (PackedPart& part : joiner.joined()) {
    const std::vector<std::byte> bytes = std::move(part.bytes);
    sink.begin(part);
    sink.append(bytes);
  }
  return true;
}

}  // namespace retort
