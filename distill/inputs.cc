#include "distill/inputs.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "core/base/digest.h"
#include "core/base/error.h"
#include "core/base/files.h"

namespace retort {
namespace {

constexpr size_t kSampleBytes = 1 << 16;  // of text that both tokenizers must cut alike

// Empty when the tokenizers are equal, otherwise what differs.
std::string difference(const Tokenizer& a, const Tokenizer& b, std::string_view sample) {
  const Vocabulary &va = a.vocabulary(), &vb = b.vocabulary();
  const auto same_text = [](const VocabularyEntry& x, const VocabularyEntry& y) { return x.text == y.text; };
  const size_t common = std::min(va.tokens.size(), vb.tokens.size());
  for (size_t id = 0; id < common; ++id)
    if (!same_text(va.tokens[id], vb.tokens[id]))
      return "id " + std::to_string(id) + " is '" + va.tokens[id].text + "' in one and '" + vb.tokens[id].text +
             "' in the other";
  if (va.tokens.size() != vb.tokens.size())
    return "one has " + std::to_string(va.tokens.size()) + " tokens, the other " + std::to_string(vb.tokens.size());
  if (va.merges != vb.merges) return "their merges differ";
  if (a.encode(sample) != b.encode(sample)) return "they cut the text differently";
  return {};
}

int64_t compared_ids(const ModelSource& teacher, const ModelSource& student, const Tokenizer& tokenizer) {
  const int64_t a = teacher.config().vocab_size, b = student.config().vocab_size;
  if (a == b) return a;
  if (tokenizer.size() > std::min(a, b))
    fail("distill", student.path().string(),
         "the tokenizer has " + std::to_string(tokenizer.size()) + " tokens, the teacher's vocabulary " +
             std::to_string(a) + " and the student's " + std::to_string(b));
  return tokenizer.size();
}

}  // namespace

TrainingText read_training_text(const ModelSource& teacher, const ModelSource& student, const std::string& path) {
  const std::string text = read_corpus(path);
  const auto ours = student.tokenizer(), theirs = teacher.tokenizer();
  const std::string differs = difference(*theirs, *ours, std::string_view(text).substr(0, kSampleBytes));
  if (!differs.empty())
    fail("distill", student.path().string(),
         "its tokenizer is not the tokenizer of " + teacher.path().string() + ": " + differs,
         "Teacher and student must share one tokenizer");
  TrainingText result{ours->encode(text), compared_ids(teacher, student, *ours)};
  const auto highest = std::ranges::max_element(result.ids);
  if (highest != result.ids.end() && *highest >= result.vocabulary)
    fail("distill", student.path().string(),
         "its tokenizer gives the id " + std::to_string(*highest) + ", above the vocabulary of " +
             std::to_string(result.vocabulary));
  return result;
}

int64_t window_length(const ModelConfig& teacher, const ModelConfig& student, int64_t asked) {
  const int64_t context = std::min(teacher.context_length, student.context_length);
  if (asked > context)
    fail_usage("distill", "--sequence-length",
               std::to_string(asked) + " is longer than the models' context of " + std::to_string(context));
  return asked > 0 ? asked : std::min<int64_t>(512, context);
}

Json run_identity(const ModelSource& teacher, const ModelSource& student, const DistillOptions& o,
                  const Context& context) {
  return {{"version", 1},
          {"teacher", digest_of_path(teacher.path())},
          {"student", digest_of_path(student.path())},
          {"data", digest_of_path(o.data)},
          {"device", context.device == "cpu" ? "cpu" : "cuda"},
          {"seed", context.seed},
          {"steps", o.steps},
          {"tokens", o.tokens},
          {"minutes", o.minutes},
          {"temperature", o.temperature},
          {"kl_weight", o.kl_weight},
          {"learning_rate", o.learning_rate},
          {"warmup", o.warmup},
          {"weight_decay", o.weight_decay},
          {"clip", o.clip},
          {"batch_tokens", o.batch_tokens},
          {"micro_batch_tokens", o.micro_batch_tokens},
          {"sequence_length", o.sequence_length},
          {"held_out", o.held_out},
          {"evaluations", o.evaluations}};
}

}  // namespace retort
