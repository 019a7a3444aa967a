// Writing the part of a checkpoint that stays.
#pragma once

#include <cstdint>
#include <vector>

#include "core/checkpoint/model_source.h"

namespace retort {

struct Kept {
  std::vector<int64_t> layers;                 // ascending
  std::vector<std::vector<int64_t>> channels;  // per kept layer, ascending; empty: all
};

// config.json of the smaller model.
Json pruned_config(const ModelConfig& config, const Kept& kept);
// Adds every tensor that stays, renumbered, in its stored type: of each dimension that the family's table calls kFfn,
// the kept channels.
void write_kept(const ModelSource& source, const Kept& kept, ModelWriter& writer);

}  // namespace retort
