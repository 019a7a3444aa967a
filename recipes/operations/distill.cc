#include "distill/distill.h"

#include <fmt/format.h>

#include "recipes/operations/rows.h"

namespace retort {
namespace {

constexpr double kMany = 1e15, kMostTokens = 1 << 30, kMostMinutes = 1e7;

constexpr ParamSpec kParams[] = {
    {"teacher", ParamType::kModel, "", "the model to learn from", true},
    {"student", ParamType::kModel, "", "Hugging Face directory with float weights to start from", true},
    {"data", ParamType::kFile, "", "training text: a file, or a directory of .txt and .md files", true},
    {"steps", ParamType::kInteger, "", "end after this many steps", false, false, "", 1, kMany},
    {"tokens", ParamType::kInteger, "",
     "end after this many tokens; without --steps, --tokens and --minutes: one pass over the text", false, false, "", 1,
     kMany},
    {"minutes", ParamType::kNumber, "",
     "end after this many minutes of training; the learning rate follows the clock, so the bytes are not reproducible",
     false, false, "", 1e-3, kMostMinutes},
    {"temperature", ParamType::kNumber, "1", "of the softened distributions", false, false, "", 1e-2, 1e3},
    {"kl-weight", ParamType::kNumber, "1", "share of the divergence in the loss; the rest is cross-entropy", false,
     false, "", 0, 1},
    {"learning-rate", ParamType::kNumber, "0.0015", "highest rate of AdamW", false, false, "", 0, 10},
    {"warmup", ParamType::kNumber, "0.05", "share of the run in which the rate rises; then it falls as a cosine", false,
     false, "", 0, 1},
    {"weight-decay", ParamType::kNumber, "0.01", "of matrices", false, false, "", 0, 10},
    {"clip", ParamType::kNumber, "1", "largest norm of the gradient; 0: any", false, false, "", 0, 1e9},
    {"batch-tokens", ParamType::kInteger, "2048", "tokens in a step", false, false, "", 1, kMostTokens},
    {"micro-batch-tokens", ParamType::kInteger, "512", "of these, tokens that go through the models together", false,
     false, "", 1, kMostTokens},
    {"sequence-length", ParamType::kInteger, "0",
     "tokens in a window; 0: 512, or the models' context length if shorter", false, false, "", 0, kMostTokens},
    {"held-out", ParamType::kInteger, "32", "windows at the end of the text that are evaluated, never trained on",
     false, false, "", 1, kMostTokens},
    {"evaluations", ParamType::kInteger, "4", "how often they are evaluated after the start", false, false, "", 1,
     kMostTokens},
    {"checkpoint-minutes", ParamType::kNumber, "1", "between checkpoints, from which the same command continues", false,
     false, "", 0, kMostMinutes},
};

DistillOptions options_of(const Params& params) {
  return {.data = params.text("data"),
          .steps = params.has("steps") ? params.integer("steps") : 0,
          .tokens = params.has("tokens") ? params.integer("tokens") : 0,
          .minutes = params.has("minutes") ? params.number("minutes") : 0,
          .temperature = params.number("temperature"),
          .kl_weight = params.number("kl-weight"),
          .learning_rate = params.number("learning-rate"),
          .warmup = params.number("warmup"),
          .weight_decay = params.number("weight-decay"),
          .clip = params.number("clip"),
          .batch_tokens = params.integer("batch-tokens"),
          .micro_batch_tokens = params.integer("micro-batch-tokens"),
          .sequence_length = params.integer("sequence-length"),
          .held_out = params.integer("held-out"),
          .evaluations = params.integer("evaluations"),
          .checkpoint_minutes = params.number("checkpoint-minutes")};
}

std::string describe(const DistillSummary& s) {
  const HeldOutLoss &before = s.held_out.front(), &after = s.held_out.back();
  return fmt::format(
      "parameters     {} of the teacher's {}\ntrained        {} steps, {} tokens, {:.1f} s, {:.0f} tokens/s\n"
      "held-out loss  {:.4f} -> {:.4f}\n           KL  {:.4f} -> {:.4f} nats per token\n"
      "cross-entropy  {:.4f} -> {:.4f} nats per token",
      s.student_parameters, s.teacher_parameters, s.steps, s.tokens, s.seconds, s.tokens_per_second, before.loss,
      after.loss, before.kl, after.kl, before.cross_entropy, after.cross_entropy);
}

OperationResult run(const Params& params, const std::filesystem::path& output, Context& context) {
  const auto teacher = open_model(params.path("teacher")), student = open_model(params.path("student"));
  const DistillSummary summary = distill_model(*teacher, *student, output, options_of(params), context);
  return {.json = to_json(summary), .as_asked = true, .text = describe(summary)};
}

}  // namespace

const Operation kDistillOperation{.name = "distill",
                                  .version = 3,
                                  .summary = "Train a student on a teacher's distribution over a text",
                                  .params = kParams,
                                  .output = OutputKind::kDirectory,
                                  .stage = true,
                                  .resumable = true,
                                  .run = run,
                                  .on_device = true,
                                  .needs_torch = [](const Params&) { return true; }};

}  // namespace retort
