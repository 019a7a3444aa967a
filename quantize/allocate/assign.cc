#include "quantize/allocate/assign.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "core/base/error.h"
#include "core/base/text.h"
#include "quantize/allocate/choose.h"
#include "quantize/allocate/sensitivity.h"
#include "quantize/artifact.h"

namespace retort {
namespace {

constexpr std::string_view kPerWeight = "bpw";
constexpr int64_t kSampledWeights = 1 << 18;  // of a matrix, to find its error in each type
// Of the files beside the tensors: a tensor's entry in the header and in the report; config.json and what is fixed.
constexpr uint64_t kBytesPerTensor = 512, kFixedBytes = 4096;

uint64_t bits_of(const ModelTensor& tensor, const Scheme& scheme) {
  const double bits = bits_per_weight(scheme, tensor.rows(), tensor.cols()) * static_cast<double>(tensor.elements());
  return static_cast<uint64_t>(std::llround(bits));
}

// Rows evenly spread over the matrix, as a matrix of their own.
MatrixTask sampled(MatrixTask task) {
  const int64_t rows = std::clamp<int64_t>(kSampledWeights / task.cols, 1, task.rows), all = task.rows;
  const auto read = task.read;
  task.read = [read, rows, all, cols = task.cols](int64_t first, int64_t count, std::span<float> out) {
    for (int64_t i = 0; i < count; ++i)
      read((first + i) * all / rows, 1, out.subspan(static_cast<size_t>(i * cols), static_cast<size_t>(cols)));
  };
  task.rows = rows;
  return task;
}

class Assignment {
 public:
  Assignment(const ModelSource& source, std::vector<TensorPlan>& plans, const QuantizeOptions& options,
             Context& context)
      : source_(source), plans_(plans), options_(options), context_(context) {
    uint64_t weights = 0;
    for (size_t i = 0; i < plans.size(); ++i) {
      weights += static_cast<uint64_t>(plans[i].tensor->elements());
      if (plans[i].candidates.empty())
        fixed_bits_ += bits_of(*plans[i].tensor, plans[i].scheme);
      else
        free_.push_back(i);
    }
    if (free_.empty()) fail_usage("quantize", "--scheme", "--keep leaves no matrix for auto to choose a type for");
    weights_ = weights;
    budget_ = parse_budget(options.size, weights, overhead());
    require_possible();
  }

  Json assign() {
    Json report{{"size", options_.size}};
    const std::vector<double> coefficients = find_coefficients(report);
    const std::vector<std::vector<Choice>> items = price(coefficients);
    const std::vector<size_t> chosen = choose_least_loss(items, budget_ - fixed_bits_).value();
    double loss = 0;
    for (size_t i = 0; i < free_.size(); ++i) {
      TensorPlan& plan = plans_[free_[i]];
      plan.scheme = plan.candidates[chosen[i]];
      plan.expected_loss = items[i][chosen[i]].loss;
      loss += *plan.expected_loss;
    }
    report["expected_loss"] = loss;
    return report;
  }

 private:
  uint64_t overhead() const {
    uint64_t bytes = kFixedBytes + plans_.size() * kBytesPerTensor + source_.config().json.dump(2).size();
    for (const SideFile& file : source_.side_files()) bytes += file.bytes.size();
    return bytes;
  }

  uint64_t smallest_bits() const {
    uint64_t bits = fixed_bits_;
    for (const size_t i : free_) {
      const TensorPlan& plan = plans_[i];
      uint64_t least = UINT64_MAX;
      for (const Scheme& scheme : plan.candidates) least = std::min(least, bits_of(*plan.tensor, scheme));
      bits += least;
    }
    return bits;
  }

  void require_possible() const {
    const uint64_t least = smallest_bits();
    if (least <= budget_) return;
    const double per_weight = static_cast<double>(least) / static_cast<double>(weights_);
    const std::string smallest = options_.size.ends_with(kPerWeight)
                                     ? fmt::format("{:.3f}bpw", std::ceil(per_weight * 1000) / 1000)
                                     : fmt::format("{}KiB", (least / 8 + overhead()) / 1024 + 1);
    fail("quantize", "--size", options_.size + " is too small for these types",
         "The smallest size that can be kept is " + smallest);
  }

  std::vector<double> find_coefficients(Json& report) {
    if (!options_.calibration.empty()) return measure_sensitivity(source_, plans_, free_, options_, context_, report);
    report["measure"] = "squared relative rounding error, all matrices alike";
    return std::vector<double>(free_.size(), 1.0);
  }

  std::vector<std::vector<Choice>> price(const std::vector<double>& coefficients) {
    const GridRule grid = options_.grid == "max" ? GridRule::kLargestWeight : GridRule::kSmallestError;
    std::vector<std::vector<Choice>> items(free_.size());
    context_.progress.begin("errors", static_cast<int64_t>(free_.size()), "matrices");
    for (size_t i = 0; i < free_.size(); ++i) {
      context_.check_interrupted();
      TensorPlan plan = plans_[free_[i]];
      for (const Scheme& scheme : plan.candidates) {
        plan.scheme = scheme;
        const double error = scheme.is_dense() ? 0.0 : rounding_error(plan, grid);
        items[i].push_back({bits_of(*plan.tensor, scheme), coefficients[i] * error * error});
      }
      context_.progress.update(static_cast<int64_t>(i) + 1, plan.tensor->name);
    }
    context_.progress.end();
    return items;
  }

  // Of weights that are not finite: 0, they are kept as they are.
  double rounding_error(const TensorPlan& plan, GridRule grid) {
    const SolvedMatrix solved = round_to_nearest(sampled(task_of(source_, plan)), {}, grid, context_);
    const double error = solved.matrix ? solved.relative_error.value_or(0.0) : 0.0;
    return std::isfinite(error) ? error : 0.0;
  }

  const ModelSource& source_;
  std::vector<TensorPlan>& plans_;
  const QuantizeOptions& options_;
  Context& context_;
  std::vector<size_t> free_;  // plans that have candidates
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
  static constexpr std::array kGguf{"q2_k", "q3_k", "iq4_xs", "q4_0", "q4_k", "q5_k", "q6_k", "q8_0"};
  const Quantizer& quantizer = find_quantizer(options.method);
  std::vector<Scheme> types;
  for (const char* name : kGguf)
    if (options.types.empty() && quantizer.supports(parse_scheme(name))) types.push_back(parse_scheme(name));
  if (options.types.empty()) return types;
  for (const std::string& name : split_types(options.types)) {
    const std::optional<Scheme> type = find_scheme(name);
    if (!type || type->is_dense()) fail_usage("quantize", "--types", "'" + name + "' is not a scheme that quantizes");
    if (!quantizer.supports(*type))
      fail_usage("quantize", "--types", std::string(quantizer.name) + " does not make " + name);
    if (type->is_block() != (types.empty() ? *type : types.front()).is_block())
      fail_usage("quantize", "--types", "no format holds blocks of GGUF beside other schemes: " + options.types);
    if (std::ranges::find(types, *type) == types.end()) types.push_back(*type);
  }
  if (types.size() > 255) fail_usage("quantize", "--types", "more than 255 are not told apart");
  constexpr int64_t kColumns = 1 << 16;
  std::ranges::stable_sort(types, {}, [](const Scheme& s) { return bits_per_weight(s, kColumns, kColumns); });
  return types;
}

SensitivityWindows sensitivity_windows(const ModelConfig& config, const QuantizeOptions& options) {
  constexpr int64_t kTokens = 2048;
  const int64_t length =
      options.sequence_length > 0 ? options.sequence_length : std::min<int64_t>(512, config.context_length);
  return {std::clamp<int64_t>(kTokens / length, 1, options.samples), length};
}

uint64_t parse_budget(const std::string& size, uint64_t weights, uint64_t overhead) {
  if (size.ends_with(kPerWeight)) return static_cast<uint64_t>(parse_per_weight(size) * static_cast<double>(weights));
  uint64_t bytes = 0;
  try {
    bytes = parse_size(size, "--size");
  } catch (const Error&) {
    refuse_size(size);
  }
  return bytes > overhead ? (bytes - overhead) * 8 : 0;
}

Json assign_types(const ModelSource& source, std::vector<TensorPlan>& plans, const QuantizeOptions& options,
                  Context& context) {
  return Assignment(source, plans, options, context).assign();
}

}  // namespace retort
