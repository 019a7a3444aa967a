// Tiny native quantized models with random codes: what a layout holds does not depend on how codes were chosen.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "core/checkpoint/model_source.h"
#include "tests/support/tiny_model.h"

namespace retort::testing {

// Writes `directory`: every linear weight (with `everything` also embedding and head) in `scheme`, where its rows
// are divided by the group; `edit` may change a matrix before it is stored.
using Edit = std::function<void(const std::string& name, QuantizedMatrix&)>;
std::unique_ptr<ModelSource> quantized_model(const std::filesystem::path& directory, const TinyModel& shape,
                                             const std::string& scheme, bool everything = false, const Edit& edit = {});

// Gives the columns of the matrix to its groups in turn, as activation order may.
void scatter_groups(QuantizedMatrix& matrix);

}  // namespace retort::testing
