// A table of small operations that behave well and badly on purpose, behind the real command line and runner.
#include "tests/cli/stub_operations.h"

#include <array>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <thread>

#include "core/base/digest.h"
#include "core/base/error.h"
#include "core/base/files.h"
#include "recipes/runner.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

// One line per execution beside the program's working directory, so that tests can count what really ran.
void log_execution(const std::string& text) {
  const fs::path log = "executions.log";
  const std::string before = fs::exists(log) ? read_text_file(log) : "";
  write_text_file(log, before + text + "\n");
}

constexpr std::array kMakeParams{
    ParamSpec{"model", ParamType::kModel, "", "an input", false, true},
    ParamSpec{"data", ParamType::kFile, "", "another input"},
    ParamSpec{"text", ParamType::kText, "nothing", "what the result holds"},
    ParamSpec{.name = "steps", .type = ParamType::kInteger, .fallback = "10", .help = "steps", .minimum = 1},
    ParamSpec{.name = "weight", .type = ParamType::kNumber, .fallback = "0.5", .help = "a share", .maximum = 1},
    ParamSpec{"cache", ParamType::kSize, "", "memory to use"},
    ParamSpec{"keep", ParamType::kList, "", "patterns"},
    ParamSpec{.name = "order",
              .type = ParamType::kText,
              .fallback = "none",
              .help = "an order",
              .choices = "none|activation"},
    ParamSpec{"fall-back", ParamType::kFlag, "", "end with code 3"},
    ParamSpec{.name = "save",
              .type = ParamType::kText,
              .fallback = "",
              .help = "a file beside the result",
              .writes_beside = true},
};

OperationResult make(const Params& params, const fs::path& output, Context& context) {
  log_execution("make " + params.text("text"));
  std::string content = params.text("text") + " " + std::to_string(params.integer("steps"));
  for (const char* input : {"model", "data"})
    if (params.has(input)) content += " " + digest_of_path(params.path(input));
  write_text_file(output / "content", content);
  context.progress.message("made it");
  OperationResult result;
  result.json = {{"params", params.json()}, {"seed", context.seed}, {"threads", context.threads.size()}};
  result.as_asked = !params.flag("fall-back");
  result.text = "made " + params.text("text");
  return result;
}

constexpr std::array kScoreParams{
    ParamSpec{"model", ParamType::kModel, "", "what to score", true, true},
    ParamSpec{"perplexity", ParamType::kNumber, "12.5", "the answer"},
};

OperationResult score(const Params& params, const fs::path&, Context&) {
  log_execution("score");
  OperationResult result;
  const double perplexity = params.number("perplexity");
  result.json = {{"perplexity", perplexity == 0 ? std::nan("") : perplexity}, {"kl_mean", 0.25}, {"bad", "\xff"}};
  result.text = "  perplexity";
  return result;
}

constexpr std::array kPackParams{
    ParamSpec{"model", ParamType::kModel, "", "what to pack", true, true},
    ParamSpec{"format", ParamType::kText, "", "of the result", true},
};

OperationResult pack(const Params& params, const fs::path& output, Context&) {
  const bool file = params.text("format") == "gguf";
  write_text_file(file ? output : output / "packed", digest_of_path(params.path("model")));
  return {};
}

constexpr std::array kTrainParams{ParamSpec{"steps", ParamType::kInteger, "3", "steps to make"}};

// Stops by itself after each step but the last, as if interrupted, and continues from its state.
OperationResult train(const Params& params, const fs::path& output, Context&) {
  const fs::path state = output / "state";
  const int done = fs::exists(state) ? std::stoi(read_text_file(state)) + 1 : 1;
  log_execution("train");
  write_text_file(state, std::to_string(done));
  if (done < params.integer("steps")) request_interrupt();
  ThreadPool threads(1);
  ProgressSink silent;
  Context{threads, silent}.check_interrupted();
  return {};
}

constexpr std::array kTroubleParams{ParamSpec{"kind", ParamType::kText, "", "what goes wrong", true, true}};

void wait_for_signal(const Context& context) {
  write_text_file("waiting", "");
  for (int i = 0; i < 3000; ++i) {
    context.check_interrupted();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

OperationResult trouble(const Params& params, const fs::path& output, Context& context) {
  const std::string kind = params.text("kind");
  write_text_file(output / "half", "written");
  if (kind == "error") fail("trouble", "tensor 'x'", "it is broken", "Mend it");
  if (kind == "lines") fail("trouble", "x", "one\nretort: two");
  if (kind == "memory") throw std::bad_alloc();
  if (kind == "files") fs::copy("/nonexistent/a", "b");
  if (kind == "standard") throw std::runtime_error("first\nsecond");
  if (kind == "wait") wait_for_signal(context);
  if (kind == "hang") {
    write_text_file("waiting", "");
    std::this_thread::sleep_for(std::chrono::seconds(30));
  }
  return {};
}

OperationResult run(const Params& params, const fs::path& output, Context& context) {
  return run_command(stub_operations(), params, output, context);
}

const std::array kTable{
    Operation{"make", 1, "Makes a directory.", kMakeParams, OutputKind::kDirectory, true, false, make},
    Operation{"score", 1, "Scores a model.", kScoreParams, OutputKind::kNone, true, false, score},
    Operation{"pack", 1, "Packs a model.", kPackParams, OutputKind::kByFormat, true, false, pack},
    Operation{"train", 1, "Trains in steps.", kTrainParams, OutputKind::kDirectory, true, true, train},
    Operation{"trouble", 1, "Fails.", kTroubleParams, OutputKind::kDirectory, true, false, trouble},
    Operation{"run", 1, "Runs a recipe.", run_params(), OutputKind::kWorkspace, false, false, run},
};

}  // namespace

std::span<const Operation> stub_operations() { return kTable; }

}  // namespace retort
