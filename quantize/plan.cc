#include <algorithm>
#include <optional>

#include "core/base/error.h"
#include "core/base/text.h"
#include "quantize/allocate/assign.h"
#include "quantize/mixes.h"
#include "quantize/quantize.h"
#include "quantize/quantizer.h"
#include "quantize/scheme_option.h"
#include "quantize/targets.h"

namespace retort {
namespace {

struct KeepRule {
  std::string pattern;
  Scheme scheme;
  bool matched = false, applies = false;  // a tensor has the name; and can be of the type
};

// Whose scales need not be those of a format that fixes their type.
bool holds_portable_scales(const Scheme& scheme) { return !scheme.is_block() && scheme.book == CodeBook::kLinear; }

Scheme dense_as(DType type) { return parse_scheme(name_of(type)); }

// The 16 bits that lose least: the checkpoint's own, and f16 for wider ones.
Scheme sixteen_bits(const ModelTensor& tensor) {
  return dense_as(*tensor.scheme.dense == DType::kBF16 ? DType::kBF16 : DType::kF16);
}

class Planner {
 public:
  Planner(const ModelSource& source, const QuantizeOptions& options)
      : source_(source),
        quantizer_(find_quantizer(options.method)),
        mix_(find_mix(options.scheme)),
        scale_type_(options.scale_type == "portable" ? ScaleType::kPortable : ScaleType::kF16),
        outliers_(options.outliers) {
    if (options.scheme == "auto") types_ = candidate_types(options);
    if (!options.target.empty()) target_ = &find_target(options.target);
    scheme_ = types_.empty() ? asked_scheme(options.scheme) : types_.front();
    if (scale_type_ != ScaleType::kF16) require_portable_scales();
    for (const auto& [pattern, type] : options.keep) keep_.push_back({pattern, kept_type(type)});
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
      if (choosable(plan)) offer_types(plan);
      plans.push_back(fitted(std::move(plan)));
      if (holds_portable_scales(plans.back().scheme)) plans.back().scale_type = scale_type_;
      plans.back().outliers = outliers_of(plans.back());
    }
    for (const KeepRule& rule : keep_) {
      if (!rule.matched) fail_usage("quantize", "--keep", "no tensor is named like '" + rule.pattern + "'");
      if (!rule.applies)
        fail_usage("quantize", "--keep",
                   "'" + rule.pattern + "' names only vectors, and " + name_of(rule.scheme) + " is for matrices",
                   "Give them f16, bf16 or f32");
    }
    return plans;
  }

 private:
  Scheme asked_scheme(const std::string& name) const {
    if (mix_) return made("--scheme", parse_scheme(base_of(*mix_)));
    std::vector<std::string> names = mix_names();
    names.emplace_back("auto");
    const Scheme scheme = scheme_of_option("--scheme", name, std::move(names));
    if (scheme.is_dense())
      fail_usage("quantize", "--scheme", name + " does not quantize", "To convert a checkpoint, use retort export");
    return made("--scheme", scheme);
  }

  Scheme kept_type(const std::string& name) const {
    const Scheme scheme = scheme_of_option("--keep", name);
    return scheme.is_dense() ? scheme : made("--keep", scheme);
  }

  Scheme made(std::string_view option, const Scheme& scheme) const {
    if (!quantizer_.supports(scheme))
      fail_usage("quantize", option, std::string(quantizer_.name) + " does not make " + name_of(scheme));
    return scheme;
  }

  void require_portable_scales() const {
    std::vector<Scheme> asked = types_;
    if (asked.empty()) asked.push_back(scheme_);
    for (const Scheme& scheme : asked)
      if (!holds_portable_scales(scheme))
        fail_usage("quantize", "--scale-type", name_of(scheme) + " is stored with f16 scales",
                   "Portable scales are for integer schemes, as int4-g32-sym");
  }

  Scheme wanted(const ModelTensor& tensor, const TensorRule& rule, int64_t layer) {
    const bool matrix = tensor.shape.size() == 2;
    const KeepRule* first = nullptr;
    for (KeepRule& keep : keep_) {
      if (!glob_match(keep.pattern, tensor.name)) continue;
      keep.matched = true;
      if (!matrix && !keep.scheme.is_dense()) continue;
      keep.applies = true;
      if (first == nullptr) first = &keep;
    }
    if (first != nullptr) return first->scheme;
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

  void offer_types(TensorPlan& plan) const {
    plan.candidates = held_types(plan, types_);
    if (plan.candidates.empty()) plan.candidates = held_types(plan, stand_ins());
    if (!plan.candidates.empty()) {
      plan.scheme = plan.candidates.front();
    } else if (target_) {
      plan.scheme = sixteen_bits(*plan.tensor);
      plan.fallback = std::string(target_->name) + " holds none of the types in this shape: " + name_of(plan.scheme);
    }
  }

  std::vector<Scheme> held_types(TensorPlan plan, std::span<const Scheme> types) const {
    std::vector<Scheme> held;
    for (const Scheme& type : types) {
      plan.scheme = type;
      if (type.fits(plan.tensor->cols()) && (!target_ || target_->holds(plan))) held.push_back(type);
    }
    return held;
  }

  // For rows that no type divides.
  std::vector<Scheme> stand_ins() const {
    std::vector<Scheme> narrow;
    for (const Scheme& type : types_) {
      const Scheme scheme = fallback_scheme(type);
      const bool known = std::ranges::find(narrow, scheme) != narrow.end();
      if (!scheme.is_dense() && quantizer_.supports(scheme) && !known) narrow.push_back(scheme);
    }
    return narrow;
  }

  // Of matrices of the layers, whatever they are quantized to.
  int64_t outliers_of(const TensorPlan& plan) const {
    if (outliers_ == 0 || plan.rule->input == Input::kNone || plan.scheme.is_dense()) return 0;
    if (!plan.scheme.holds_outliers())
      fail_usage("quantize", "--outliers", name_of(plan.scheme) + " has no place for columns in 16 bits",
                 "Schemes like int4-g128-sym have");
    if (outliers_ >= plan.tensor->cols())
      fail_usage("quantize", "--outliers",
                 plan.tensor->name + " has " + std::to_string(plan.tensor->cols()) + " columns in all");
    return outliers_;
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
  const Mix* mix_;  // not null: the types of a mix instead of scheme_
  const ScaleType scale_type_;
  const int64_t outliers_;
  std::vector<Scheme> types_;  // not empty: auto chooses among them
  const Target* target_ = nullptr;
  Scheme scheme_;
  std::vector<KeepRule> keep_;
};

}  // namespace

std::vector<TensorPlan> plan_tensors(const ModelSource& source, const QuantizeOptions& options) {
  return Planner(source, options).plan();
}

}  // namespace retort
