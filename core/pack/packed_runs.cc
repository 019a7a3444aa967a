#include "core/pack/packed_runs.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <iterator>
#include <mutex>
#include <utility>
#include <vector>

#include "core/base/in_order.h"
#include "core/pack/parts.h"

namespace retort {
namespace {

// Parts of runs of rows on their way to the parts of the whole. With rows along the first axis the first part is not
// among them: its runs follow each other in the file.
class PartJoiner {
 public:
  PartJoiner(int64_t rows, int row_axis) : rows_(rows), row_axis_(row_axis), streamed_(row_axis == 0 ? 1 : 0) {}

  bool streams() const { return streamed_ == 1; }
  // The first part of the whole, without its bytes; known when a run has been placed.
  const PackedPart& streamed() const { return whole_.front(); }
  // `parts` of `count` rows. Thread-safe for different rows.
  void place(std::span<const PackedPart> parts, int64_t first, int64_t count) {
    std::call_once(prepared_, [&] { prepare(parts, count); });
    for (size_t i = streamed_; i < parts.size(); ++i)
      if (first == 0 || parts[i].shape.size() >= 2) place(parts[i], first, whole_[i]);
  }
  // The parts that are not streamed.
  std::vector<PackedPart> take_joined() {
    return {std::make_move_iterator(whole_.begin() + static_cast<ptrdiff_t>(streamed_)),
            std::make_move_iterator(whole_.end())};
  }

 private:
  // Parts of two dimensions have whole elements along the rows, which tell how many of them the whole has.
  void prepare(std::span<const PackedPart> parts, int64_t count) {
    std::vector<PackedPart> whole;  // all or nothing: after a failure another run may come here
    for (const PackedPart& part : parts) {
      auto& [name, dtype, shape, bytes] = whole.emplace_back(PackedPart{part.name, part.dtype, part.shape, {}});
      int64_t& extent = row_axis_ == 0 ? shape.front() : shape.back();
      if (shape.size() >= 2) extent = extent * rows_ / count;
      if (whole.size() > streamed_) bytes.resize(size_in_bytes(dtype, shape));
    }
    whole_ = std::move(whole);
  }
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
  std::once_flag prepared_;
  std::vector<PackedPart> whole_;
};

// Packs all runs and hands on those of the first part; false when one could not be made.
bool pack_all(const MatrixRuns& runs, const PackedFormat& format, PartJoiner& joiner, const PartSink& sink,
              ThreadPool& threads) {
  std::atomic<bool> given_up = false;
  const auto make = [&](int64_t first, int64_t count) {
    const std::optional<QuantizedMatrix> rows = given_up ? std::nullopt : runs.make(first, count);
    if (!rows) return given_up = true, UnsetBytes();
    std::vector<PackedPart> parts = format.pack_rows(*rows);
    joiner.place(parts, first, count);
    return std::move(parts.front().bytes);
  };
  // In no order, where no run is handed on: none waits for another.
  const auto make_alone = [&](int64_t first, int64_t last) {
    try {
      make(first, last - first);
    } catch (...) {
      given_up = true;
      throw;
    }
  };
  bool begun = false;
  const auto take = [&](const UnsetBytes& bytes) {
    if (given_up) return;
    if (!std::exchange(begun, true)) sink.begin(joiner.streamed());
    sink.append(bytes);
  };
  if (joiner.streams())
    in_order(runs.rows, runs.step, threads, make, take);
  else
    threads.run_ranges(runs.rows, runs.step, make_alone);
  return !given_up;
}

}  // namespace

void PartSink::put(std::span<const PackedPart> parts) const {
  for (const PackedPart& part : parts) {
    begin(part);
    append(part.bytes);
  }
}

bool pack_runs(const MatrixRuns& runs, const PackedFormat& format, int row_axis, const PartSink& sink,
               ThreadPool& threads) {
  PartJoiner joiner(runs.rows, row_axis);
  if (!pack_all(runs, format, joiner, sink, threads)) return false;
  std::vector<PackedPart> parts = joiner.take_joined();
  if (format.finish_parts != nullptr) format.finish_parts(parts, runs.rows, runs.cols);
  if (sink.joined)
    sink.joined(std::move(parts));
  else
    sink.put(parts);
  return true;
}

}  // namespace retort
