#include "model/training/memory.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/text.h"

namespace retort {
namespace {

constexpr uint64_t kProgram = uint64_t{320} << 20;  // LibTorch and its buffers, measured
constexpr uint64_t kFloat = sizeof(float), kMebibyte = uint64_t{1} << 20;

// Elements that a layer keeps for its backward pass, for each token: two norms with their inputs, projections before
// and after rotation, attention and its output, the three products of the FFN.
uint64_t kept_elements(const ModelConfig& c) {
  return static_cast<uint64_t>(8 * c.hidden_size + 4 * c.query_size() + 4 * c.kv_size() + 4 * c.ffn_size);
}

}  // namespace

MemoryNeed memory_need(const ModelConfig& teacher, const ModelConfig& student, int64_t shard_tokens,
                       int64_t chunk_tokens, int64_t text_tokens) {
  const auto teacher_weights = static_cast<uint64_t>(teacher.parameters());
  const auto student_weights = static_cast<uint64_t>(student.parameters());
  const auto vocabulary = static_cast<uint64_t>(std::max(teacher.vocab_size, student.vocab_size));
  const auto tokens = static_cast<uint64_t>(shard_tokens), chunk = static_cast<uint64_t>(chunk_tokens);
  const uint64_t head = vocabulary * static_cast<uint64_t>(student.hidden_size);
  MemoryNeed need;
  // Values, both moments and the gradient. The text's ids, and while it is read its bytes.
  need.fixed = kProgram + kFloat * (teacher_weights + 4 * student_weights) + 16 * static_cast<uint64_t>(text_tokens);
  const uint64_t student_states = static_cast<uint64_t>(student.layers) * kept_elements(student);
  const uint64_t states = std::max(student_states, kept_elements(teacher));  // the teacher's come first, and go
  need.per_shard = kFloat * (tokens * states + 6 * chunk * vocabulary + student_weights + 2 * head);
  return need;
}

int64_t shards_side_by_side(const MemoryNeed& need, std::string_view operation, std::string_view remedy,
                            const Context& context) {
  const int64_t threads = context.threads.size();
  if (context.memory_limit == 0) return threads;
  if (context.memory_limit < need.fixed + need.per_shard)
    fail(operation, "--memory",
         "training takes about " + format_bytes(need.fixed + need.per_shard) + ", above the limit of " +
             format_bytes(context.memory_limit),
         "The smallest limit that does is --memory " + std::to_string((need.fixed + need.per_shard) / kMebibyte + 1) +
             "MiB; " + std::string(remedy));
  const uint64_t fit = (context.memory_limit - need.fixed) / need.per_shard;
  return static_cast<int64_t>(std::min<uint64_t>(fit, static_cast<uint64_t>(threads)));
}

}  // namespace retort
