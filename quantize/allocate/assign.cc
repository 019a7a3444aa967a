#include "quantize/allocate/assign.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/checkpoint/safetensors_size.h"
#include "quantize/allocate/choose.h"
#include "quantize/allocate/sensitivity.h"
#include "quantize/artifact.h"
#include "quantize/rounding.h"
#include "quantize/scheme_option.h"
#include "quantize/targets.h"
#include "quantize/tune/tune.h"

namespace retort {
namespace {

constexpr std::string_view kPerWeight = "bpw";
// Without a text, an error in the embedding or the head counts as much as this many in a layer: all tokens, or all
// logits, have it. On a model of 5.8M weights KL per squared error is 5 times that of the median matrix.
constexpr double kTopWeight = 4;
constexpr int64_t kSampledWeights = 1 << 18;  // of a matrix, to find its error in each type
// Of the files beside the tensors: a tensor's part of the report, more where it was calibrated, and of config.json; and
// what is fixed.
constexpr uint64_t kReported = 320, kReportedCalibration = 512, kConfigured = 64, kFixedBytes = 4096;

uint64_t bits_of(const ModelTensor& tensor, const Scheme& scheme) {
  const double bits = bits_per_weight(scheme, tensor.rows(), tensor.cols()) * static_cast<double>(tensor.elements());
  return static_cast<uint64_t>(std::llround(bits));
}

// The tensors that a matrix is stored as (core/pack/native.cc, blocks_format.cc).
uint64_t parts_of(const Scheme& scheme) {
  if (scheme.is_dense() || scheme.is_block()) return 1;
  return scheme.symmetric ? 2 : 3;
}

uint64_t most_parts(const TensorPlan& plan) {
  uint64_t most = parts_of(plan.scheme);
  for (const Scheme& type : plan.candidates) most = std::max(most, parts_of(type));
  return most;
}

// Vectors that change are stored in float32 (QuantizedWriter::add_folded).
Scheme largest_scheme(const TensorPlan& plan, const QuantizeOptions& options) {
  const bool changes = tunes(options) || find_quantizer(options.method).scales_inputs;
  const bool as_it_is = plan.tensor->shape.size() == 1 && plan.scheme == plan.tensor->scheme;
  return changes && as_it_is ? parse_scheme("f32") : plan.scheme;
}

MatrixTask sampled(const MatrixTask& task) {
  return spread_rows(task, std::max<int64_t>(1, kSampledWeights / task.cols));
}

// Matrices that get one type.
struct Item {
  std::vector<size_t> plans;
  std::vector<Scheme> types;
};

std::vector<Item> items_of(std::span<const TensorPlan> plans, const QuantizeOptions& options) {
  const bool fuses = !options.target.empty() && find_target(options.target).fuses;
  std::vector<Item> items;
  for (size_t i = 0; i < plans.size(); ++i) {
    if (plans[i].candidates.empty()) continue;
    const TensorPlan* last = items.empty() ? nullptr : &plans[items.back().plans.back()];
    if (!fuses || !last || plans[i].layer != last->layer || plans[i].rule->input != last->rule->input)
      items.push_back({{}, plans[i].candidates});
    items.back().plans.push_back(i);
    std::erase_if(items.back().types, [&](const Scheme& type) {
      return std::ranges::find(plans[i].candidates, type) == plans[i].candidates.end();
    });
    if (items.back().types.empty())
      fail_usage("quantize", "--types",
                 options.target + " needs one type for " + last->tensor->name + " and " + plans[i].tensor->name +
                     ", and none holds both");
  }
  return items;
}

// Matrices that no type may be able to round stay as they are, and so count. A scale is at most the largest weight,
// or a little more where it is searched.
void fix_what_cannot_be_rounded(const ModelSource& source, std::vector<TensorPlan>& plans, Context& context) {
  constexpr float kLargest = 32768;
  for (TensorPlan& plan : plans) {
    if (plan.candidates.empty()) continue;
    context.check_interrupted();
    std::atomic<bool> finite = true, fits = true;
    for_each_piece(task_of(source, plan), context, [&](const RowPiece& piece) {
      if (!all_finite(piece.values)) finite = false;
      if (std::ranges::any_of(piece.values, [](float value) { return std::abs(value) > kLargest; })) fits = false;
    });
    if (finite && fits) continue;
    plan.candidates.clear();
    plan.scheme = plan.tensor->scheme;
    plan.fallback =
        std::string(finite ? "a weight is too large for the scales of some types" : kNotFinite) + ": kept as it is";
  }
}

class Assignment {
 public:
  Assignment(const ModelSource& source, std::vector<TensorPlan>& plans, const QuantizeOptions& options,
             Context& context)
      : source_(source), plans_(plans), options_(options), context_(context), items_(items_of(plans, options)) {
    if (items_.empty()) fail_usage("quantize", "--scheme", "there is no matrix that auto could choose a type for");
    for (const TensorPlan& plan : plans) {
      weights_ += static_cast<uint64_t>(plan.tensor->elements());
      if (plan.candidates.empty()) fixed_bits_ += bits_of(*plan.tensor, largest_scheme(plan, options));
    }
    budget_ = parse_budget(options.size, weights_, [this](uint64_t bytes) { return overhead(bytes); });
    require_possible();
  }

  Json assign() {
    Json report{{"size", options_.size}};
    const std::vector<std::vector<Choice>> choices = price(find_coefficients(report));
    const std::vector<size_t> chosen = choose_least_loss(choices, budget_ - fixed_bits_).value();
    double loss = 0;
    for (size_t i = 0; i < items_.size(); ++i) {
      for (const size_t plan : items_[i].plans) plans_[plan].scheme = items_[i].types[chosen[i]];
      loss += choices[i][chosen[i]].loss;
    }
    report["expected_loss"] = loss;
    report["types"] = count_types();
    return report;
  }

 private:
  // At most, beside so many bytes of tensors.
  uint64_t overhead(uint64_t tensor_bytes) const {
    const bool calibrated = find_quantizer(options_.method).needs_calibration;
    uint64_t bytes = kFixedBytes + source_.config().json.dump(2).size(), stored = 0, names = 0;
    for (const SideFile& file : source_.side_files()) bytes += file.bytes.size();
    for (const TensorPlan& plan : plans_) {
      const uint64_t name = plan.tensor->name.size(), parts = most_parts(plan);
      bytes += kReported + (calibrated ? kReportedCalibration : 0) + kConfigured + 2 * name + plan.fallback.size();
      stored += parts, names += parts * name;
    }
    return bytes + safetensors_overhead(tensor_bytes, stored, names);
  }

  uint64_t bits_of_item(const Item& item, const Scheme& type) const {
    uint64_t bits = 0;
    for (const size_t plan : item.plans) bits += bits_of(*plans_[plan].tensor, type);
    return bits;
  }

  uint64_t smallest_bits() const {
    uint64_t bits = fixed_bits_;
    for (const Item& item : items_) {
      uint64_t least = UINT64_MAX;
      for (const Scheme& type : item.types) least = std::min(least, bits_of_item(item, type));
      bits += least;
    }
    return bits;
  }

  void require_possible() const {
    const uint64_t least = smallest_bits();
    if (least <= budget_) return;
    // With the room that the file needs when it has this size.
    const uint64_t bytes = least / 8 + overhead(least / 8 + overhead(least / 8));
    const double per_weight = static_cast<double>(least) / static_cast<double>(weights_);
    const std::string smallest = options_.size.ends_with(kPerWeight)
                                     ? fmt::format("{:.3f}bpw", std::ceil(per_weight * 1000) / 1000)
                                     : fmt::format("{}KiB", bytes / 1024 + 1);
    fail("quantize", "--size", options_.size + " is too small for these types",
         "The smallest size that can be kept is " + smallest);
  }

  // By plan.
  std::vector<double> find_coefficients(Json& report) {
    if (!options_.calibration.empty()) return measure_sensitivity(source_, plans_, options_, context_, report);
    report["measure"] = "squared error of the weights";
    std::vector<double> coefficients;
    for (const TensorPlan& plan : plans_)
      coefficients.push_back(plan.candidates.empty() ? 0.0 : (plan.layer < 0 ? kTopWeight : 1.0) * square_sum(plan));
    return coefficients;
  }

  // Of the weights; of some of the rows as for all.
  double square_sum(const TensorPlan& plan) const {
    const MatrixTask task = sampled(task_of(source_, plan));
    std::vector<float> values(static_cast<size_t>(task.rows * task.cols));
    task.read(0, task.rows, values);
    double sum = 0;
    for (const float value : values) sum += static_cast<double>(value) * value;
    return sum * static_cast<double>(plan.tensor->rows()) / static_cast<double>(task.rows);
  }

  // The choices of each item.
  std::vector<std::vector<Choice>> price(const std::vector<double>& coefficients) {
    std::vector<std::vector<Choice>> choices;
    context_.progress.begin("errors", static_cast<int64_t>(items_.size()), "matrices");
    for (const Item& item : items_) {
      context_.check_interrupted();
      std::vector<Choice>& prices = choices.emplace_back();
      for (const Scheme& type : item.types) {
        double loss = 0;
        for (const size_t plan : item.plans)
          if (coefficients[plan] > 0) loss += coefficients[plan] * std::pow(rounding_error(plans_[plan], type), 2);
        prices.push_back({bits_of_item(item, type), loss});
      }
      context_.progress.update(static_cast<int64_t>(choices.size()));
    }
    context_.progress.end();
    return choices;
  }

  // Relative.
  double rounding_error(TensorPlan plan, const Scheme& type) {
    plan.scheme = type;
    const GridRule grid = options_.grid == "max" ? GridRule::kLargestWeight : GridRule::kSmallestError;
    const SolvedMatrix solved = round_to_nearest(sampled(task_of(source_, plan)), {}, grid, context_);
    return solved.relative_error.value_or(0.0);
  }

  // Of the matrices that were given one: {"q4_k": {"tensors", "bits_per_weight"}}.
  Json count_types() const {
    struct Count {
      int64_t tensors = 0, weights = 0;
      uint64_t bits = 0;
    };
    std::map<std::string, Count> counts;
    for (const TensorPlan& plan : plans_) {
      if (plan.candidates.empty()) continue;
      Count& count = counts[name_of(plan.scheme)];
      ++count.tensors;
      count.weights += plan.tensor->elements();
      count.bits += bits_of(*plan.tensor, plan.scheme);
    }
    Json types = Json::object();
    for (const auto& [name, count] : counts)
      types[name] = {{"tensors", count.tensors},
                     {"bits_per_weight", static_cast<double>(count.bits) / static_cast<double>(count.weights)}};
    return types;
  }

  const ModelSource& source_;
  std::vector<TensorPlan>& plans_;
  const QuantizeOptions& options_;
  Context& context_;
  std::vector<Item> items_;
  uint64_t weights_ = 0, fixed_bits_ = 0, budget_ = 0;
};

std::vector<std::string> split_types(const std::string& text) {
  std::vector<std::string> names;
  for (size_t start = 0; start <= text.size();) {
    const size_t comma = std::min(text.find(',', start), text.size());
    names.push_back(text.substr(start, comma - start));
    start = comma + 1;
  }
  return names;
}

[[noreturn]] void refuse_size(const std::string& size) {
  fail_usage("quantize", "--size", "'" + size + "' is not a size", "Write it as 4.5bpw, 700MiB or 3GB");
}

double parse_per_weight(const std::string& size) {
  double number = 0;
  const char* end = size.data() + size.size() - kPerWeight.size();
  const auto [rest, error] = std::from_chars(size.data(), end, number);
  if (error != std::errc() || rest != end || !(number > 0 && number <= 32)) refuse_size(size);
  return number;
}

}  // namespace

std::vector<Scheme> candidate_types(const QuantizeOptions& options) {
  const Quantizer& quantizer = find_quantizer(options.method);
  const auto defaults = find_target(options.target.empty() ? "llama.cpp" : options.target).types;
  std::vector<std::string> names(defaults.begin(), defaults.end());
  if (!options.types.empty()) names = split_types(options.types);
  std::vector<Scheme> types;
  for (const std::string& name : names) {
    const Scheme type = scheme_of_option("--types", name);
    if (type.is_dense()) fail_usage("quantize", "--types", "'" + name + "' does not quantize");
    if (!quantizer.supports(type))
      fail_usage("quantize", "--types", std::string(quantizer.name) + " does not make " + name);
    if (type.is_block() != (types.empty() ? type : types.front()).is_block())
      fail_usage("quantize", "--types", "no format holds blocks of GGUF beside other schemes: " + options.types);
    if (std::ranges::find(types, type) == types.end()) types.push_back(type);
  }
  if (types.size() > 255) fail_usage("quantize", "--types", "more than 255 are not told apart");
  constexpr int64_t kColumns = 1 << 16;
  std::ranges::stable_sort(types, {}, [](const Scheme& s) { return bits_per_weight(s, kColumns, kColumns); });
  return types;
}

uint64_t parse_budget(const std::string& size, uint64_t weights, const std::function<uint64_t(uint64_t)>& overhead) {
  if (size.ends_with(kPerWeight)) return static_cast<uint64_t>(parse_per_weight(size) * static_cast<double>(weights));
  uint64_t bytes = 0;
  try {
    bytes = parse_size(size, "--size");
  } catch (const Error&) {
    refuse_size(size);
  }
  const uint64_t beside = overhead(bytes);
  return bytes > beside ? (bytes - beside) * 8 : 0;
}

Json assign_types(const ModelSource& source, std::vector<TensorPlan>& plans, const QuantizeOptions& options,
                  Context& context) {
  fix_what_cannot_be_rounded(source, plans, context);
  return Assignment(source, plans, options, context).assign();
}

}  // namespace retort
