#include "quantize/tune/tune.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <string>

#include "core/base/digest.h"
#include "core/base/dtype.h"
#include "core/base/error.h"
#include "model/array_file.h"
#include "model/calibration.h"
#include "model/shards.h"
#include "model/training/adamw.h"
#include "model/training/memory.h"
#include "model/training/schedule.h"
#include "model/training/trainer.h"
#include "quantize/calibration/walk_state.h"
#include "quantize/tune/free_numbers.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr int64_t kStepTokens = 2048, kShardTokens = 512, kKeptAside = 4096;
constexpr int64_t kStepsPerSave = 16;
constexpr double kLearningRate = 1e-2, kWarmup = 0.05;
// The gradient of a loss close to its least is small: no epsilon that could rule the step.
constexpr AdamWOptions kAdam{.epsilon = 1e-20};

int64_t window_length(const ModelConfig& config, const QuantizeOptions& options) {
  return options.sequence_length > 0 ? options.sequence_length : std::min<int64_t>(512, config.context_length);
}

struct Shape {  // of a step, in windows
  int64_t length, per_step, per_shard, aside;
  explicit Shape(int64_t window)
      : length(window),
        per_step(std::max<int64_t>(1, kStepTokens / window)),
        per_shard(std::clamp<int64_t>(kShardTokens / window, 1, per_step)),
        aside(std::max<int64_t>(1, kKeptAside / window)) {}
};

// Windows spread evenly over the text, some of them kept aside to judge by.
struct TuningText {
  at::Tensor training, aside;

  TuningText(const at::Tensor& windows, int64_t aside_wanted) {
    const int64_t count = windows.size(0), kept = std::min(aside_wanted, std::max<int64_t>(1, count / 8));
    if (count < 2)
      fail_usage("quantize", "--calibration", "the text has only one window, tuning needs two",
                 "Give a longer text or a shorter --sequence-length");
    std::vector<int64_t> train, judge;
    for (int64_t i = 0; i < count; ++i) ((i * kept) % count + kept >= count ? judge : train).push_back(i);
    training = windows.index_select(0, at::tensor(train));
    aside = windows.index_select(0, at::tensor(judge));
  }

  // Each batch is spread over the whole text, and no window comes again before all have come.
  at::Tensor batch(int64_t step, int64_t windows) const {
    const int64_t count = training.size(0);
    int64_t stride = std::max<int64_t>(1, count / windows);
    while (std::gcd(stride, count) != 1) ++stride;
    std::vector<int64_t> chosen;
    for (int64_t i = 0; i < windows; ++i) chosen.push_back((step * windows + i) % count * stride % count);
    return training.index_select(0, at::tensor(chosen));
  }
};

// Parameters and moments between two steps, on disk.
class TuningState {
 public:
  TuningState(fs::path path, std::string key) : path_(std::move(path)), key_(std::move(key)) {}

  void load(at::Tensor& parameters, AdamWState& adam) const {
    if (!fs::exists(path_)) return;
    const ArrayReader reader(path_);
    if (reader.read_text("key") != key_) return;
    for (auto [name, tensor] : named(parameters, adam)) {
      const ArrayReader::Floats floats = reader.read_floats(name);
      std::ranges::copy(floats.values, tensor.mutable_data_ptr<float>());
    }
    adam.steps = std::stoll(reader.read_text("steps"));
  }

  void save(const at::Tensor& parameters, const AdamWState& adam) const {
    fs::create_directories(path_.parent_path());
    ArrayWriter writer(path_);
    for (const auto& [name, tensor] : named(parameters, adam))
      writer.write(name, {tensor.numel()}, {tensor.const_data_ptr<float>(), static_cast<size_t>(tensor.numel())});
    writer.write("key", key_);
    writer.write("steps", std::to_string(adam.steps));
    writer.commit();
  }

 private:
  static std::vector<std::pair<const char*, at::Tensor>> named(const at::Tensor& parameters, const AdamWState& adam) {
    return {{"parameters", parameters}, {"mean", adam.mean}, {"square", adam.square}};
  }

  fs::path path_;
  std::string key_;
};

struct Phase {
  const char* name;
  int64_t steps;
  bool codes;
};

std::vector<Phase> phases_of(const QuantizeOptions& options) {
  std::vector<Phase> phases;
  if (options.learn_rounding > 0) phases.push_back({"learned rounding", options.learn_rounding, true});
  if (options.tune_scales > 0) phases.push_back({"tuned scales", options.tune_scales, false});
  return phases;
}

// What all phases work with.
struct Workshop {
  const Shape& shape;
  const TuningText& text;
  const Teacher& teacher;
  const at::Tensor& original;  // the float model's weights, flat
  const at::Tensor& stored;    // the same, those that the result holds in 16 bit rounded to them
  StudentParameters& student;
  int64_t side_by_side;
  Context& context;
};

class Run {
 public:
  Run(const Workshop& workshop, const Phase& phase, std::span<SolvedTensor> tensors, const TuningState& state)
      : workshop_(workshop),
        phase_(phase),
        state_(state),
        context_(workshop.context),
        numbers_(tensors, workshop.student, phase.codes, context_),
        trainer_(workshop.teacher, workshop.student, {.vocabulary = workshop.teacher.config.vocab_size},
                 workshop.shape.per_shard, workshop.side_by_side, context_),
        weights_(workshop.stored.clone()),
        parameters_(numbers_.begin(workshop.original)),
        adam_{at::zeros_like(parameters_), at::zeros_like(parameters_)} {}

  Json train() {
    const double before = judge(at::zeros_like(parameters_));
    if (!std::isfinite(before))
      return {{"what", phase_.name}, {"steps", 0}, {"taken", false}, {"fallback", "the model's logits are not finite"}};
    state_.load(parameters_, adam_);
    context_.progress.begin(phase_.name, phase_.steps, "steps");
    context_.progress.resume(adam_.steps);
    while (adam_.steps < phase_.steps) {
      const double loss = step();
      char note[32];
      std::snprintf(note, sizeof note, "KL %.5f", loss);
      context_.progress.update(adam_.steps, note);
      save_or_stop();
    }
    context_.progress.end();
    const double after = judge(parameters_);
    const bool better = after < before;
    if (!better) numbers_.restore();
    return {
        {"what", phase_.name}, {"steps", phase_.steps}, {"kl_before", before}, {"kl_after", after}, {"taken", better}};
  }

 private:
  void set(const at::Tensor& parameters) {
    numbers_.set(parameters, weights_);
    workshop_.student.values.copy_(weights_);
  }

  // KL in nats per token over the windows kept aside.
  double judge(const at::Tensor& parameters) {
    set(parameters);
    const LossSums sums = trainer_.evaluate(workshop_.text.aside, workshop_.student.values);
    return sums.kl / static_cast<double>(sums.tokens);
  }

  double step() {
    set(parameters_);
    const at::Tensor batch = workshop_.text.batch(adam_.steps, workshop_.shape.per_step);
    at::Tensor by_weights = at::empty_like(workshop_.student.values), by_parameters = at::empty_like(parameters_);
    const LossSums sums = trainer_.gradient(batch, by_weights);
    numbers_.gradient(by_weights.cpu(), by_parameters);
    const double share = (static_cast<double>(adam_.steps) + 0.5) / static_cast<double>(phase_.steps);
    adamw_step(context_, kAdam, kLearningRate * rate_factor(share, kWarmup), by_parameters, adam_, parameters_);
    return sums.kl / static_cast<double>(sums.tokens);
  }

  void save_or_stop() {
    const bool due = adam_.steps % kStepsPerSave == 0 || adam_.steps == phase_.steps;
    if (due) state_.save(parameters_, adam_);
    try {
      context_.check_interrupted();
    } catch (const Error&) {
      if (!due) state_.save(parameters_, adam_);
      throw;
    }
  }

  const Workshop& workshop_;
  const Phase& phase_;
  const TuningState& state_;
  Context& context_;
  FreeNumbers numbers_;
  Trainer trainer_;
  at::Tensor weights_, parameters_;
  AdamWState adam_;
};

int64_t shards_at_once(const ModelSource& source, const QuantizeOptions& options, const Context& context) {
  if (context.device != "cpu") return 1;
  const ModelConfig& config = source.config();
  const Shape shape(window_length(config, options));
  MemoryNeed need = memory_need(config, config, shape.per_shard * shape.length, LossOptions{}.chunk, 0);
  // The original weights and those decoded, and codes twice; with learned rounding a parameter a weight and its
  // gradient. The moments are those that memory_need counts.
  need.fixed += (options.learn_rounding > 0 ? 18 : 10) * static_cast<uint64_t>(config.parameters());
  return shards_side_by_side(need, "quantize", "leaving tuning out needs less", context);
}

// The best of some products of a shard's size, timed: the first one is slow, and others may be at work here.
double multiply_adds_per_second(const ModelConfig& config) {
  const at::Tensor a = at::ones({kShardTokens, config.hidden_size}),
                   b = at::ones({config.hidden_size, config.ffn_size});
  double least = 1e9;
  for (int i = 0; i < 8; ++i) {
    const auto start = std::chrono::steady_clock::now();
    at::mm(a, b);
    least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return static_cast<double>(kShardTokens * config.hidden_size * config.ffn_size) / least;
}

// Forward through both models and twice that backward.
double seconds_of(const ModelConfig& config, const QuantizeOptions& options, const Shape& shape, int64_t side_by_side) {
  const auto tokens =
      static_cast<double>((options.learn_rounding + options.tune_scales) * shape.per_step * shape.length);
  return tokens * 4 * static_cast<double>(config.parameters()) / multiply_adds_per_second(config) /
         static_cast<double>(side_by_side);
}

at::Tensor as_stored(const at::Tensor& original, std::span<const SolvedTensor> tensors,
                     const StudentParameters& student) {
  at::Tensor stored = original.clone();
  for (const SolvedTensor& tensor : tensors) {
    const TensorPlan& plan = *tensor.plan;
    if (!plan.scheme.is_dense() || plan.scheme == plan.tensor->scheme) continue;
    const auto slice = std::ranges::find(student.slices, plan.tensor->name, &ParameterSlice::name);
    const std::span values(stored.mutable_data_ptr<float>() + slice->first, static_cast<size_t>(slice->count));
    std::vector<std::byte> bytes(values.size() * size_of(*plan.scheme.dense));
    encode_from_f32(*plan.scheme.dense, values, bytes);
    decode_to_f32(*plan.scheme.dense, bytes, values);
  }
  return stored;
}

// Of what is tuned: parameters are offsets from it.
std::string key_of(std::span<const SolvedTensor> tensors) {
  Digest digest;
  for (const SolvedTensor& tensor : tensors) {
    digest.update(tensor.plan->tensor->name);
    digest.update(std::as_bytes(std::span(tensor.values)));
    if (!tensor.solved.matrix) continue;
    const QuantizedMatrix& matrix = *tensor.solved.matrix;
    digest.update(std::as_bytes(std::span(matrix.codes)));
    for (const auto* numbers : {&matrix.scales, &matrix.minima, &matrix.outliers})
      digest.update(std::as_bytes(std::span(*numbers)));
  }
  return digest.hex();
}

}  // namespace

void check_tuning(const ModelSource& source, const QuantizeOptions& options, const Context& context) {
  if (options.calibration.empty()) fail_usage("quantize", "--calibration", "tuning needs a text", "Give --calibration");
  prepare_torch();
  const Shape shape(window_length(source.config(), options));
  const int64_t side_by_side = shards_at_once(source, options, context);
  const auto steps = static_cast<double>(options.learn_rounding + options.tune_scales);
  char text[96];
  std::snprintf(text, sizeof text, "tuning: %.0f steps of %.0f tokens, about %.0f seconds", steps,
                static_cast<double>(shape.per_step * shape.length),
                seconds_of(source.config(), options, shape, side_by_side));
  context.progress.message(text);
}

Json tune(const ModelSource& source, std::span<SolvedTensor> tensors, const QuantizeOptions& options,
          const fs::path& state, Context& context) {
  prepare_torch();
  const at::Device device = parse_device(context.device);
  const Shape shape(window_length(source.config(), options));
  const int64_t windows = std::max(options.learn_rounding, options.tune_scales) * shape.per_step + shape.aside;
  const at::Tensor ids = calibration_windows(source, options.calibration, windows, options.sequence_length, "quantize");
  const TuningText text(ids, shape.aside);
  const Teacher teacher{source.config(), load_weights(source, {compute_type(device), device})};
  StudentParameters student = load_student(source, device);
  const at::Tensor original = student.values.cpu().clone();
  const at::Tensor stored = as_stored(original, tensors, student);
  const Workshop workshop{shape,  text, teacher, original, stored, student, shards_at_once(source, options, context),
                          context};
  std::vector<TensorPlan> plans;
  for (const SolvedTensor& tensor : tensors) plans.push_back(*tensor.plan);
  const std::string key = run_key(source, plans, options, ids, context) + key_of(tensors);
  Json report = Json::array();
  for (const Phase& phase : phases_of(options)) {
    const TuningState kept(state / (phase.codes ? "tuning-codes.h5" : "tuning-scales.h5"),
                           Json{key, options.learn_rounding, options.tune_scales, options.sequence_length}.dump());
    report.push_back(Run(workshop, phase, tensors, kept).train());
  }
  for (SolvedTensor& tensor : tensors) tensor.solved.relative_error.reset();  // it was the solver's
  return report;
}

}  // namespace retort
