// Knowledge distillation: a student learns the distribution of a live teacher over the tokens of a text.
// Goals: the same bytes for any number of threads and after any interruption; memory for logits bounded by a chunk.
// Non-goals: teachers with another vocabulary, several machines.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/base/context.h"
#include "core/base/json.h"
#include "core/checkpoint/model_source.h"

namespace retort {

struct DistillOptions {
  std::string data;  // path of a text (read_corpus)
  // The budget; what is 0 does not limit. All 0: one pass over the text. With `minutes` the learning rate follows
  // the clock, so that the bytes of the result are not reproducible.
  int64_t steps = 0, tokens = 0;
  double minutes = 0;
  double temperature = 1, kl_weight = 1;                                        // loss.h
  double learning_rate = 1.5e-3, warmup = 0.05, weight_decay = 0.01, clip = 1;  // schedule.h, adamw.h
  int64_t batch_tokens = 2048;        // of one step, over all its micro-batches
  int64_t micro_batch_tokens = 512;   // that go through the models together: bounds the memory for activations
  int64_t sequence_length = 0;        // of a window; 0: min(512, the models' context length)
  int64_t held_out = 32;              // windows at the end of the text, never trained on; at most a tenth of it
  int64_t evaluations = 4;            // on the held-out windows, evenly spread, besides the one at the start
  double checkpoint_minutes = 1;      // between checkpoints; 0: after every step
};

struct HeldOutLoss {
  int64_t step = 0;
  double loss = 0, kl = 0, cross_entropy = 0;  // nats per token; loss is what is minimised
};

struct DistillSummary {
  int64_t steps = 0, tokens = 0;
  int64_t resumed_from = 0;  // the step at which this process took over; 0: it ran from the start
  double seconds = 0;        // of training, evaluation left out; earlier processes counted in
  double tokens_per_second = 0;
  double loss = 0;  // of the last step
  int64_t teacher_parameters = 0, student_parameters = 0;
  std::vector<HeldOutLoss> held_out;  // the first before training, the last of the weights as written
};

// Trains `student` and writes a Hugging Face directory, tensors in the types that the student has, with metrics.jsonl
// (a line for each step) and retort.json, into `directory` (staged by the caller). What an interrupted run of the
// same inputs and options left there is continued, to the same bytes. Errors: a student that is quantized or not a
// Hugging Face directory, tokenizers that differ, a text that is too short, a loss that is not finite.
DistillSummary distill_model(const ModelSource& teacher, const ModelSource& student,
                             const std::filesystem::path& directory, const DistillOptions& options, Context& context);
Json to_json(const DistillSummary& summary);

}  // namespace retort
