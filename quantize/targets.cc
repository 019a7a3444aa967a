#include "quantize/targets.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/pack/packed_format.h"

namespace retort {
namespace {

constexpr Carrier kVllm[] = {
    {"compressed-tensors", {"compressed-tensors", ""}}, {"gptq", {"gptq", "gptq_v2"}}, {"awq", {"awq", ""}}};
constexpr Carrier kLlamaCpp[] = {{"gguf", {"q4_0", "q8_0"}}};
constexpr Carrier kOnnxRuntime[] = {{"onnx", {"matmulnbits", ""}}};
constexpr Carrier kMlx[] = {{"mlx", {"mlx", ""}}};

constexpr std::array<std::string_view, 4> kVllmTypes{"int4-g128-sym", "int4-g32-sym", "int4-g32-asym", "int8-g128-sym"};
constexpr std::array<std::string_view, 8> kGgufTypes{"q2_k", "q3_k", "iq4_xs", "q4_0", "q4_k", "q5_k", "q6_k", "q8_0"};
constexpr std::array<std::string_view, 3> kOnnxTypes{"int4-g128-sym", "int4-g32-asym", "int8-g128-sym"};
constexpr std::array<std::string_view, 5> kMlxTypes{"int2-g32-asym", "int3-g64-asym", "int4-g128-sym", "int4-g32-asym",
                                                    "int8-g64-sym"};

// vllm/model_executor/layers/quantization/utils/marlin_utils.py: types uint4, uint4b8, uint8b128; groups -1, 32, 64,
// 128; tiles of 64 rows and 128 columns (GPTQ_MARLIN_MIN_THREAD_N, _K).
std::string marlin_refuses(const Scheme& scheme, int64_t rows, int64_t cols) {
  if (scheme.is_block()) return "its kernels read no GGUF blocks";
  if (scheme.bits != 4 && (scheme.bits != 8 || !scheme.symmetric))
    return "Marlin kernels have 4-bit codes, and 8-bit ones without zero points";
  const int64_t group = scheme.group_size(cols);
  if (scheme.granularity == Granularity::kTensor) return "Marlin kernels have a scale per channel or group";
  if (scheme.granularity == Granularity::kGroup && group != 32 && group != 64 && group != 128)
    return "Marlin kernels have groups of 32, 64 or 128, and these have " + std::to_string(group);
  if (rows % 64 != 0 || cols % 128 != 0)
    return "Marlin kernels work on tiles of 64 rows and 128 columns, and this is " + std::to_string(rows) + " x " +
           std::to_string(cols);
  return {};
}

std::string nothing(const Scheme&, int64_t, int64_t) { return {}; }

constexpr std::array kTargets{
    // compressed_tensors/utils.py, find_matched_target: a fused layer gets the scheme of its first part.
    Target{.name = "vllm", .carriers = kVllm, .refuses = marlin_refuses, .types = kVllmTypes, .fuses = true},
    // ggml-common.h; any row of whole blocks
    Target{.name = "llama.cpp", .carriers = kLlamaCpp, .refuses = nothing, .types = kGgufTypes},
    // docs/ContribOperators.md, MatMulNBits
    Target{.name = "onnxruntime", .carriers = kOnnxRuntime, .refuses = nothing, .types = kOnnxTypes},
    // mlx/ops.cpp, quantize: bits 2, 3, 4, 6, 8; groups 32, 64, 128
    Target{.name = "mlx", .carriers = kMlx, .refuses = nothing, .types = kMlxTypes},
};

QuantizedMatrix shape_of(const TensorPlan& plan) {
  QuantizedMatrix shape;
  shape.scheme = plan.scheme;
  shape.rows = plan.tensor->rows();
  shape.cols = plan.tensor->cols();
  shape.outlier_columns.resize(static_cast<size_t>(plan.outliers));
  return shape;
}

std::string carrier_refuses(const Carrier& carrier, const TensorPlan& plan) {
  const QuantizedMatrix shape = shape_of(plan);
  if (carrier.format == "gguf" && plan.scheme.is_block()) return storage_format(plan.scheme).refuses(shape);
  std::string reason;
  for (const std::string_view name : carrier.packed) {
    if (name.empty()) continue;
    reason = packed_format(name).refuses(shape);
    if (reason.empty()) break;
  }
  return reason;
}

std::string reason_against(const Target& target, const Carrier& carrier, const TensorPlan& plan) {
  const std::string reason = target.refuses(plan.scheme, plan.tensor->rows(), plan.tensor->cols());
  return reason.empty() ? carrier_refuses(carrier, plan) : reason;
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

Reasons reasons_against(const Target& target, const Carrier& carrier, std::span<const TensorPlan> plans) {
  Reasons reasons;
  for (const TensorPlan& plan : plans) {
    if (plan.scheme.is_dense()) continue;
    const std::string reason = reason_against(target, carrier, plan);
    if (!reason.empty()) reasons.emplace(name_of(plan.scheme) + ": " + reason, plan.tensor->name);
  }
  if (target.fuses) compare_fused(plans, reasons);
  return reasons;
}

}  // namespace

bool Target::holds(const TensorPlan& plan) const { return reason_against(*this, carriers.front(), plan).empty(); }

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
  TargetVerdict verdict{.target = std::string(name), .format = {}, .reasons = {}};
  for (const Carrier& carrier : target.carriers) {
    const Reasons reasons = reasons_against(target, carrier, plans);
    if (reasons.empty()) return {.target = std::string(name), .format = std::string(carrier.format), .reasons = {}};
    if (!verdict.reasons.empty()) continue;
    for (const auto& [reason, tensor] : reasons) verdict.reasons.push_back(tensor + ": " + reason);
  }
  return verdict;
}

}  // namespace retort
