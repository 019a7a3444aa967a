// A model with random weights: a student from scratch, or a model to benchmark on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "core/base/context.h"
#include "core/checkpoint/model_source.h"

namespace retort {

// Fills `out` with elements [first, first + out.size()) of an endless sequence of normal numbers (mean 0, deviation 1)
// that depends on `key` alone; `first` is a multiple of 4. Each number is one of 65536 equally likely quantiles of the
// normal distribution (the largest is 4.2), picked by 16 bits of splitmix64(key + index).
void fill_normal(uint64_t key, uint64_t first, std::span<float> out);

// Writes a Hugging Face directory: weights normal with the config's initializer_range (0.02 where it is absent), norms
// one, biases zero, all in `type`. The bytes depend on the configuration, `type` and context.seed. Memory: some 60 MiB.
void write_random_model(const ModelConfig& config, DType type, std::span<const SideFile> side_files,
                        const std::filesystem::path& directory, Context& context);

}  // namespace retort
