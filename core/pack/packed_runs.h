// A matrix on its way to a file, a run of rows at a time: what is not yet or no longer needed of it is in no memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/pack/packed_format.h"

namespace retort {

struct MatrixRuns {
  int64_t rows, cols;
  int64_t step;  // rows of a run, but for the last: 32 or a multiple of them
  // Rows [first, first + count) as a matrix of their own; nothing gives the whole up. Called by all threads.
  std::function<std::optional<QuantizedMatrix>(int64_t first, int64_t count)> make;
};

using ByteSink = std::function<void(std::span<const std::byte>)>;

// A part of the whole matrix: told first by its name, type and shape, then its bytes.
struct PartSink {
  std::function<void(const PackedPart& part)> begin;
  ByteSink append;
  // Gets all parts that were joined in memory, when those that were not are through. Empty: they come as above.
  std::function<void(std::vector<PackedPart> parts)> joined = {};

  void put(std::span<const PackedPart> parts) const;  // begins and appends each
};

// The same bytes as packing the whole matrix. `row_axis` is that of parts of two dimensions and more: 0, the first, or
// 1, the last; other parts are of all rows. With rows along the first axis the first part is not held in memory.
// False when it was given up: `sink` may have got a beginning of the first part.
bool pack_runs(const MatrixRuns& runs, const PackedFormat& format, int row_axis, const PartSink& sink,
               ThreadPool& threads);

}  // namespace retort
