#include "quantize/targets.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/pack/held_as.h"
#include "core/pack/packed_format.h"

namespace retort {
namespace {

constexpr std::array<std::string_view, 4> kVllmTypes{"int4-g128-sym", "int4-g32-sym", "int4-g32-asym", "int8-g128-sym"};
constexpr std::array<std::string_view, 8> kGgufTypes{"q2_k", "q3_k", "iq4_xs", "q4_0", "q4_k", "q5_k", "q6_k", "q8_0"};
constexpr std::array<std::string_view, 3> kOnnxTypes{"int4-g128-sym", "int4-g32-asym", "int8-g128-sym"};
constexpr std::array<std::string_view, 5> kMlxTypes{"int2-g32-asym", "int3-g64-asym", "int4-g128-sym", "int4-g32-asym",
                                                    "int8-g64-sym"};

// vllm/model_executor/layers/quantization/utils/marlin_utils.py: types uint4, uint4b8, uint8b128; groups -1, 32, 64,
// 128; tiles of 64 rows and 128 columns (GPTQ_MARLIN_MIN_THREAD_N, _K).
std::string marlin_refuses(const Scheme& scheme, int64_t rows, int64_t cols) {
  if (scheme.bits != 4 && (scheme.bits != 8 || !scheme.symmetric))
    return "Marlin kernels have 4-bit codes, and 8-bit ones without zero points";
  const int64_t group = scheme.group_size(cols);
  if (scheme.granularity == Granularity::kGroup && group != 32 && group != 64 && group != 128)
    return "Marlin kernels have groups of 32, 64 or 128, and these have " + std::to_string(group);
  if (rows % 64 != 0 || cols % 128 != 0)
    return "Marlin kernels work on tiles of 64 rows and 128 columns, and this is " + std::to_string(rows) + " x " +
           std::to_string(cols);
  return {};
}

std::string nothing(const Scheme&, int64_t, int64_t) { return {}; }

template <const char* name>
std::string layout_refuses(const QuantizedMatrix& shape) {
  return packed_format(name).refuses(shape);
}
constexpr char kCompressedTensors[] = "compressed-tensors", kMatMulNBits[] = "matmulnbits";

constexpr std::array kTargets{
    // compressed_tensors/utils.py, find_matched_target: a fused layer gets the scheme of its first part.
    Target{.name = "vllm",
           .format = "compressed-tensors",
           .format_refuses = layout_refuses<kCompressedTensors>,
           .held_as = [](const Scheme& scheme, int64_t) { return compressed_tensors_scheme(scheme); },
           .refuses = marlin_refuses,
           .types = kVllmTypes,
           .layers_only = true,
           .fuses = true},
    // ggml-common.h; any row of whole blocks
    Target{.name = "llama.cpp",
           .format = "gguf",
           .format_refuses = gguf_refuses,
           .held_as = [](const Scheme& scheme, int64_t) { return gguf_block(scheme); },
           .refuses = nothing,
           .types = kGgufTypes},
    // docs/ContribOperators.md, MatMulNBits
    Target{.name = "onnxruntime",
           .format = "onnx",
           .format_refuses = layout_refuses<kMatMulNBits>,
           .held_as = [](const Scheme& scheme, int64_t) { return scheme; },
           .refuses = nothing,
           .types = kOnnxTypes},
    // mlx/ops.cpp, quantize: bits 2, 3, 4, 5, 6, 8; groups 32, 64, 128
    Target{.name = "mlx",
           .format = "mlx",
           .format_refuses = mlx_refuses,
           .held_as = mlx_scheme,
           .refuses = nothing,
           .types = kMlxTypes},
};

std::string reason_against(const Target& target, const TensorPlan& plan) {
  if (target.layers_only && plan.rule->input == Input::kNone)
    return "only the linear weights of layers have a place in " + std::string(target.format);
  QuantizedMatrix shape;
  shape.scheme = plan.scheme;
  shape.rows = plan.tensor->rows();
  shape.cols = plan.tensor->cols();
  shape.outlier_columns.resize(static_cast<size_t>(plan.outliers));
  std::string reason = refuses_outliers(shape, target.format);
  if (reason.empty()) reason = target.format_refuses(shape);
  return reason.empty() ? target.refuses(target.held_as(plan.scheme, shape.cols), shape.rows, shape.cols) : reason;
}

// Of its types in which the target loads the matrix the one of the most similar size.
std::string nearest_type(const Target& target, TensorPlan plan) {
  const auto bits = [&](const Scheme& s) { return bits_per_weight(s, plan.tensor->rows(), plan.tensor->cols()); };
  const double asked = bits(plan.scheme);
  std::string nearest = "16 bit";
  double least = std::numeric_limits<double>::infinity();
  plan.outliers = 0;
  for (const std::string_view type : target.types) {
    plan.scheme = parse_scheme(type);
    if (!plan.scheme.fits(plan.tensor->cols()) || !target.holds(plan)) continue;
    const double difference = std::abs(bits(plan.scheme) - asked);
    if (difference < least) least = difference, nearest = type;
  }
  return nearest;
}

// Reason -> the first tensor that it holds for.
using Reasons = std::map<std::string, std::string>;

// Of matrices that become one. Those whose types auto has yet to choose get one type (allocate/assign.cc).
void compare_fused(std::span<const TensorPlan> plans, Reasons& reasons) {
  std::map<std::pair<int64_t, Input>, const TensorPlan*> firsts;
  for (const TensorPlan& plan : plans) {
    if (plan.rule->input == Input::kNone) continue;
    const TensorPlan& first = *firsts.try_emplace({plan.layer, plan.rule->input}, &plan).first->second;
    const bool both_open = !first.candidates.empty() && !plan.candidates.empty();
    const bool both_dense = first.scheme.is_dense() && plan.scheme.is_dense();
    if (both_open || both_dense || first.scheme == plan.scheme) continue;
    reasons.emplace(name_of(first.scheme) + " and " + name_of(plan.scheme) + ": they become one matrix, of one scheme",
                    first.tensor->name + " and " + plan.tensor->name);
  }
}

Reasons reasons_against(const Target& target, std::span<const TensorPlan> plans) {
  Reasons reasons;
  for (const TensorPlan& plan : plans) {
    if (plan.scheme.is_dense()) continue;
    const std::string reason = reason_against(target, plan);
    if (!reason.empty())
      reasons.emplace(
          name_of(plan.scheme) + ": " + reason + "; the nearest that it loads is " + nearest_type(target, plan),
          plan.tensor->name);
  }
  if (target.fuses) compare_fused(plans, reasons);
  return reasons;
}

// Types that the format has others for.
std::vector<std::string> renamed_types(const Target& target, std::span<const TensorPlan> plans) {
  std::set<std::string> renamed;
  for (const TensorPlan& plan : plans) {
    if (plan.scheme.is_dense()) continue;
    const std::string held = name_of(target.held_as(plan.scheme, plan.tensor->cols()));
    if (held != name_of(plan.scheme)) renamed.insert(name_of(plan.scheme) + " as " + held);
  }
  return {renamed.begin(), renamed.end()};
}

}  // namespace

bool Target::holds(const TensorPlan& plan) const { return reason_against(*this, plan).empty(); }

std::vector<std::string> target_names() {
  std::vector<std::string> names;
  for (const Target& target : kTargets) names.emplace_back(target.name);
  return names;
}

const Target& find_target(std::string_view name) {
  const auto target = std::ranges::find(kTargets, name, &Target::name);
  if (target != kTargets.end()) return *target;
  fail_usage("quantize", "--for", std::string(name) + " is not a target that is known",
             "The nearest one is " + nearest_name(name, target_names()));
}

TargetVerdict judge_target(std::string_view name, std::span<const TensorPlan> plans) {
  const Target& target = find_target(name);
  TargetVerdict verdict{.target = std::string(name), .format = {}, .reasons = {}, .held_as = {}};
  for (const auto& [reason, tensor] : reasons_against(target, plans)) verdict.reasons.push_back(tensor + ": " + reason);
  if (!verdict.loads()) return verdict;
  verdict.format = target.format;
  verdict.held_as = renamed_types(target, plans);
  return verdict;
}

}  // namespace retort
