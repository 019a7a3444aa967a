// How large the files of SafetensorsWriter become.
#pragma once

#include <cstdint>

namespace retort {

constexpr uint64_t kShardBytes = 5'000'000'000;  // of tensors in a shard, at most, where nothing else is asked

// An upper bound of the bytes beside the data: headers, or the room kept for them, and the index. `names`: the lengths
// of the tensors' names together. Shards are as large as they are by default.
uint64_t safetensors_overhead(uint64_t data_bytes, uint64_t tensors, uint64_t names);

}  // namespace retort
