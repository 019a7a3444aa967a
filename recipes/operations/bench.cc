#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/base/error.h"
#include "core/base/text.h"
#include "recipes/operations/rows.h"
#include "runtime/engine.h"
#include "runtime/kernels/registry.h"
#include "runtime/sampler.h"

namespace retort {
namespace {

constexpr double kMostTokens = 1 << 24;

constexpr ParamSpec kParams[] = {
    {"model", ParamType::kModel, "", "Hugging Face directory, native quantized directory or GGUF file", false, true},
    {"prompt-tokens", ParamType::kInteger, "512", "length of the prompt in tokens", false, false, "", 1, kMostTokens},
    {"new-tokens", ParamType::kInteger, "128", "tokens decoded after it", false, false, "", 1, kMostTokens},
    {"depth", ParamType::kInteger, "0", "tokens in the cache before the prompt", false, false, "", 0, kMostTokens},
    {"batch", ParamType::kInteger, "1", "sequences, one after the other at each step", false, false, "", 1, 4096},
    {"repeat", ParamType::kInteger, "5", "repetitions; medians are reported", false, false, "", 1},
    {"kernel", ParamType::kText, "", "force a kernel"},
    {"list-kernels", ParamType::kFlag, "", "list the kernels and which of them this CPU runs, and end"},
};

struct Load {
  int64_t prompt_tokens, new_tokens, depth, batch;
};

struct Seconds {
  double prompt = 0, decode = 0, first_token = 0;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

std::vector<int32_t> some_tokens(int64_t count, int64_t vocabulary) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<int32_t>((i * 7919 + 1) % static_cast<size_t>(vocabulary));
  return tokens;
}

// Sequences of `load.batch` sessions that hold `load.depth` tokens each.
class Workload {
 public:
  Workload(Engine& engine, const Load& load)
      : engine_(engine),
        load_(load),
        prompt_(some_tokens(load.prompt_tokens, engine.config().vocab_size)),
        logits_(static_cast<size_t>(engine.config().vocab_size)) {
    const auto before = some_tokens(load.depth, engine.config().vocab_size);
    for (int64_t i = 0; i < load.batch; ++i) {
      sessions_.push_back(engine.new_session(load.depth + load.prompt_tokens + load.new_tokens));
      if (load.depth > 0) engine.forward(*sessions_.back(), before, 0, {});
    }
    last_.resize(sessions_.size());
  }

  Seconds measure(Context& context) {
    for (const auto& session : sessions_) session->reset(load_.depth);
    Seconds seconds;
    const auto start = Clock::now();
    for (size_t i = 0; i < sessions_.size(); ++i) {
      step(i, prompt_);
      if (i == 0) seconds.first_token = since(start);
    }
    seconds.prompt = since(start);
    const auto decode_start = Clock::now();
    for (int64_t token = 0; token < load_.new_tokens; ++token) {
      context.check_interrupted();
      for (size_t i = 0; i < sessions_.size(); ++i) step(i, {&last_[i], 1});
    }
    seconds.decode = since(decode_start);
    return seconds;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

  void step(size_t index, std::span<const int32_t> tokens) {
    engine_.forward(*sessions_[index], tokens, 1, logits_);
    last_[index] = greedy_.next(logits_);
  }

  Engine& engine_;
  Load load_;
  std::vector<int32_t> prompt_, last_;
  std::vector<float> logits_;
  std::vector<std::unique_ptr<Session>> sessions_;
  Sampler greedy_{{.temperature = 0}};
};

Seconds measure_medians(Engine& engine, const Load& load, int64_t repeat, Context& context) {
  Workload workload(engine, load);
  std::vector<double> prompt, decode, first_token;
  context.progress.begin("bench", repeat, "runs");
  for (int64_t i = 0; i < repeat; ++i) {
    const Seconds seconds = workload.measure(context);
    prompt.push_back(seconds.prompt);
    decode.push_back(seconds.decode);
    first_token.push_back(seconds.first_token);
    context.progress.update(i + 1);
  }
  context.progress.end();
  return {median(prompt), median(decode), median(first_token)};
}

OperationResult list_kernels() {
  Json list = Json::array();
  std::string text;
  const Kernel& chosen = select_kernel("");
  for (const Kernel* kernel : kernels()) {
    const bool supported = is_supported(*kernel);
    const char* note = kernel == &chosen ? "the default on this CPU" : supported ? "supported" : "not on this CPU";
    text += fmt::format("{}{:<14} {}", text.empty() ? "" : "\n", kernel->name, note);
    list.push_back({{"name", kernel->name}, {"supported", supported}, {"default", kernel == &chosen}});
  }
  return {.json = {{"kernels", list}}, .as_asked = true, .text = text};
}

std::string describe(const Json& json) {
  return fmt::format(
      "prompt        {:10.1f} tokens/s\ndecode        {:10.1f} tokens/s\nfirst token   {:10.3f} s\n"
      "weights       {:>10}\npeak memory   {:>10}\nkernel        {:>10}, {} threads",
      json["prompt_tokens_per_second"].get<double>(), json["decode_tokens_per_second"].get<double>(),
      json["time_to_first_token_seconds"].get<double>(), format_bytes(json["weight_bytes"].get<uint64_t>()),
      format_bytes(json["peak_rss_bytes"].get<uint64_t>()), json["kernel"].get<std::string>(),
      json["threads"].get<int>());
}

OperationResult run(const Params& params, const std::filesystem::path&, Context& context) {
  if (params.flag("list-kernels")) return list_kernels();
  if (!params.has("model")) fail_usage("bench", "MODEL", "it is required and was not given");
  const auto source = open_model(params.path("model"));
  const auto engine = load_engine(*source, {.kernel = params.has("kernel") ? params.text("kernel") : ""}, context);
  const Load load{.prompt_tokens = params.integer("prompt-tokens"),
                  .new_tokens = params.integer("new-tokens"),
                  .depth = params.integer("depth"),
                  .batch = params.integer("batch")};
  const Seconds seconds = measure_medians(*engine, load, params.integer("repeat"), context);
  Json json = {
      {"model", params.path("model").string()},
      {"prompt_tokens_per_second", static_cast<double>(load.batch * load.prompt_tokens) / seconds.prompt},
      {"decode_tokens_per_second", static_cast<double>(load.batch * load.new_tokens) / seconds.decode},
      {"time_to_first_token_seconds", seconds.first_token},
      {"peak_rss_bytes", peak_resident_bytes()},
      {"weight_bytes", engine->weight_bytes()},
      {"threads", context.threads.size()},
      {"kernel", engine->kernel()},
      {"device", "cpu"},
      {"prompt_tokens", load.prompt_tokens},
      {"new_tokens", load.new_tokens},
      {"depth", load.depth},
      {"batch", load.batch},
      {"repeat", params.integer("repeat")},
  };
  const std::string text = describe(json);
  return {.json = std::move(json), .as_asked = true, .text = text};
}

}  // namespace

extern const Operation kBenchOperation = {
    .name = "bench",
    .version = 1,
    .summary = "Measure the speed and memory of the built-in backend",
    .params = kParams,
    .output = OutputKind::kNone,
    .stage = true,
    .resumable = false,
    .run = run,
};

}  // namespace retort
