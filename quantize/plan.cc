#include <algorithm>
#include <optional>

#include "core/base/error.h"
#include "core/base/text.h"
#include "quantize/allocate/assign.h"
#include "quantize/mixes.h"
#include "quantize/quantize.h"
#include "quantize/quantizer.h"

namespace retort {
namespace {

struct KeepRule {
  std::string pattern;
  Scheme scheme;
  bool matched = false;
};

Scheme dense_as(DType type) { return parse_scheme(name_of(type)); }

// The 16 bits that lose least: the checkpoint's own, and f16 for wider ones.
Scheme sixteen_bits(const ModelTensor& tensor) {
  return dense_as(*tensor.scheme.dense == DType::kBF16 ? DType::kBF16 : DType::kF16);
}

class Planner {
 public:
  Planner(const ModelSource& source, const QuantizeOptions& options)
      : source_(source), quantizer_(find_quantizer(options.method)), mix_(find_mix(options.scheme)) {
    if (options.scheme == "auto") types_ = candidate_types(options);
    scheme_ = !types_.empty() ? types_.front() : checked(mix_ ? std::string(base_of(*mix_)) : options.scheme, false);
    for (const auto& [pattern, type] : options.keep) keep_.push_back({pattern, checked(type, true)});
  }

  std::vector<TensorPlan> plan() {
    std::vector<TensorPlan> plans;
    for (const ExpectedTensor& expected : expected_tensors(source_.config())) {
      const ModelTensor& tensor = source_.at(expected.name);
      const std::optional<Scheme> stored = find_scheme(tensor.stored);
      const Scheme& scheme = stored ? *stored : tensor.scheme;  // of integers that are read as numbers
      if (!scheme.is_dense())
        fail("quantize", tensor.name, "it is quantized already (" + name_of(scheme) + ")",
             "Quantize the checkpoint that this model was made from");
      TensorPlan plan{&tensor, expected.rule, expected.layer, wanted(tensor, *expected.rule, expected.layer), {}};
      if (choosable(plan)) plan.candidates = fitting_types(tensor.cols());
      if (!plan.candidates.empty()) plan.scheme = plan.candidates.front();
      plans.push_back(fitted(std::move(plan)));
    }
    for (const KeepRule& rule : keep_)
      if (!rule.matched) fail_usage("quantize", "--keep", "no tensor is named like '" + rule.pattern + "'");
    return plans;
  }

 private:
  Scheme checked(const std::string& name, bool dense_allowed) const {
    const Scheme scheme = parse_scheme(name);
    if (scheme.is_dense() && dense_allowed) return scheme;
    if (scheme.is_dense())
      fail_usage("quantize", "--scheme", name + " does not quantize", "To convert a checkpoint, use retort export");
    if (!quantizer_.supports(scheme))
      fail_usage("quantize", "--scheme", std::string(quantizer_.name) + " does not make " + name);
    return scheme;
  }

  Scheme wanted(const ModelTensor& tensor, const TensorRule& rule, int64_t layer) {
    const bool matrix = tensor.shape.size() == 2;
    for (KeepRule& keep : keep_) {
      if (!glob_match(keep.pattern, tensor.name)) continue;
      keep.matched = true;
      if (matrix || keep.scheme.is_dense()) return keep.scheme;
    }
    if (!matrix) return tensor.scheme;
    if (rule.input != Input::kNone) return mix_ ? scheme_in_mix(*mix_, source_.config(), rule, layer) : scheme_;
    const Scheme base = mix_ ? scheme_in_mix(*mix_, source_.config(), rule, layer) : scheme_;
    // Embedding and head: what their readers look up or multiply in full width; in GGUF, what llama-quantize does.
    if (!base.is_block()) return sixteen_bits(tensor);
    if (!types_.empty()) return base;
    const bool is_head = rule.role == Role::kHead || source_.config().tied_embeddings;
    return is_head ? head_scheme(base, source_.config()) : base;
  }

  // Matrices that auto gives a type: in GGUF all, elsewhere those that the integer schemes quantize.
  bool choosable(const TensorPlan& plan) const {
    const auto kept = [&](const KeepRule& keep) { return glob_match(keep.pattern, plan.tensor->name); };
    return !types_.empty() && plan.tensor->shape.size() == 2 && std::ranges::none_of(keep_, kept) &&
           (types_.front().is_block() || plan.rule->input != Input::kNone);
  }

  // The types that divide rows of `cols`; where none does, what stands in for them.
  std::vector<Scheme> fitting_types(int64_t cols) const {
    std::vector<Scheme> fitting;
    for (const Scheme& type : types_)
      if (type.fits(cols)) fitting.push_back(type);
    if (!fitting.empty()) return fitting;
    for (const Scheme& type : types_) {
      const Scheme narrow = fallback_scheme(type);
      const bool known = std::ranges::find(fitting, narrow) != fitting.end();
      if (!narrow.is_dense() && narrow.fits(cols) && quantizer_.supports(narrow) && !known) fitting.push_back(narrow);
    }
    return fitting;
  }

  static TensorPlan fitted(TensorPlan plan) {
    const int64_t cols = plan.tensor->cols();
    if (plan.scheme.fits(cols)) return plan;
    Scheme nearest = fallback_scheme(plan.scheme);
    while (!nearest.fits(cols)) nearest = fallback_scheme(nearest);
    if (nearest.is_dense()) nearest = sixteen_bits(*plan.tensor);
    plan.fallback = name_of(plan.scheme) + " does not divide rows of " + std::to_string(cols) + ": " +
                    name_of(nearest) + " instead";
    plan.scheme = nearest;
    return plan;
  }

  const ModelSource& source_;
  const Quantizer& quantizer_;
  const Mix* mix_;             // not null: the types of a mix instead of scheme_
  std::vector<Scheme> types_;  // not empty: auto chooses among them
  Scheme scheme_;
  std::vector<KeepRule> keep_;
};

}  // namespace

std::vector<TensorPlan> plan_tensors(const ModelSource& source, const QuantizeOptions& options) {
  return Planner(source, options).plan();
}

}  // namespace retort
