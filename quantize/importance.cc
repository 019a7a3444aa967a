// The importance of a run, and how it is used.
#include "quantize/importance.h"

#include <algorithm>
#include <filesystem>

#include "core/base/error.h"
#include "quantize/calibration/importance.h"
#include "quantize/rounding.h"

namespace retort {
namespace {

constexpr float kFloor = 1e-6f;  // of the most active column

const ColumnActivity* find_activity(const ImportanceMatrix& importance, const TensorPlan& plan) {
  const auto entry = importance.entries.find(gguf_name(*plan.rule, plan.layer));
  return entry == importance.entries.end() ? nullptr : &entry->second;
}

void check_fit(const ImportanceMatrix& importance, std::span<const TensorPlan> plans, const std::string& label) {
  bool any = false;
  for (const TensorPlan& plan : plans) {
    const ColumnActivity* activity = plan.scheme.is_dense() ? nullptr : find_activity(importance, plan);
    if (activity == nullptr) continue;
    any = true;
    const auto columns = static_cast<int64_t>(activity->square_sums.size());
    if (columns != plan.tensor->cols())
      fail("quantize", label,
           "the entry '" + gguf_name(*plan.rule, plan.layer) + "' has " + std::to_string(columns) + " columns, and " +
               plan.tensor->name + " has " + std::to_string(plan.tensor->cols()),
           "It was made with another model");
  }
  if (!any) fail("quantize", label, "it has no entry for any matrix of the model", "It was made with another model");
}

// Before the work. An importance matrix that an earlier run wrote may be written again.
void require_writable(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
  if (!std::filesystem::is_directory(folder)) fail("quantize", path, "there is no folder " + folder.string());
  if (!std::filesystem::exists(path)) return;
  try {
    read_imatrix(path);
  } catch (const Error&) {
    fail("quantize", path, "--save-imatrix would overwrite a file that is not an importance matrix",
         "Give another name, or remove the file");
  }
}

}  // namespace

ImportanceMatrix obtain_importance(const ModelSource& source, std::span<const TensorPlan> plans,
                                   const QuantizeOptions& options, Context& context) {
  const bool measured = options.imatrix.empty();
  if (!options.save_imatrix.empty()) require_writable(options.save_imatrix);
  ImportanceMatrix importance = measured ? measure_importance(source, options, context) : read_imatrix(options.imatrix);
  if (!measured) check_fit(importance, plans, options.imatrix);
  if (!options.save_imatrix.empty()) write_imatrix(options.save_imatrix, importance);
  return importance;
}

std::optional<InputStatistics> input_statistics(const ImportanceMatrix& importance, const TensorPlan& plan) {
  const ColumnActivity* activity = find_activity(importance, plan);
  if (activity == nullptr) return std::nullopt;
  return InputStatistics{.features = plan.tensor->cols(), .second_moment = {}, .mean_square = activity->mean_square()};
}

std::vector<float> floored_importance(std::vector<float> importance) {
  const float most = importance.empty() ? 0.0f : *std::ranges::max_element(importance);
  if (!(most > 0)) return {};
  for (float& value : importance) value = std::max(value, kFloor * most);
  return importance;
}

Rounding imatrix_rounding(const Scheme& scheme, const InputStatistics* statistics, GridRule grid) {
  Rounding rounding{.grid = grid};
  if (statistics == nullptr) return rounding;
  rounding.importance = floored_importance(statistics->mean_square);
  const bool as_ggml = rounds_as_ggml(scheme, grid);
  if (!as_ggml && !rounding.importance.empty()) rounding.method = "imatrix";
  if (as_ggml && scheme.block == BlockType::kQ4_0) rounding.fallback = "with --grid max nothing is weighted";
  return rounding;
}

}  // namespace retort
