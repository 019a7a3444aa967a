// Speed of distillation steps against the speed of plain matrix products on the same thread, both in CPU time, so
// that the ratio also holds on a busy machine.
//   distill_speed TEACHER STUDENT [windows per shard] [chunk]
#include <ATen/ATen.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "core/checkpoint/model_source.h"
#include "model/shards.h"
#include "model/training/trainer.h"

namespace retort {
namespace {

double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

double product_rate() {
  const at::Tensor a = at::randn({1024, 1024}), b = at::randn({1024, 1024});
  at::mm(a, b);
  const double start = cpu_seconds();
  constexpr int kRepeat = 20;
  for (int i = 0; i < kRepeat; ++i) at::mm(a, b);
  return kRepeat * 2.0 * 1024 * 1024 * 1024 / (cpu_seconds() - start);
}

// Matrix products of one token: two operations a weight forward, four backward, and the attention's own.
double operations_per_token(const ModelConfig& config, int64_t length, bool with_backward) {
  const double head = config.tied_embeddings ? 0 : -static_cast<double>(config.vocab_size * config.hidden_size);
  const double attention = 2.0 * static_cast<double>(length * config.query_size() * config.layers);  // causal: half
  return (2 * (static_cast<double>(config.parameters()) + head) + attention) * (with_backward ? 3 : 1);
}

void measure(const char* teacher_path, const char* student_path, int64_t per_shard, int64_t chunk) {
  prepare_torch();
  const auto teacher_source = open_model(teacher_path), student_source = open_model(student_path);
  const Teacher teacher{teacher_source->config(), load_weights(*teacher_source)};
  const StudentParameters student = load_student(*student_source, at::kCPU);
  ThreadPool pool(1);
  ProgressSink sink;
  const Context context{.threads = pool, .progress = sink};
  const int64_t length = teacher.config.context_length, windows = 8;
  const Trainer trainer(teacher, student, {.vocabulary = teacher.config.vocab_size, .chunk = chunk}, per_shard, 1,
                        context);
  const at::Tensor batch = at::randint(0, teacher.config.vocab_size, {windows, length + 1}, at::kLong);
  at::Tensor gradient = at::empty_like(student.values);
  trainer.gradient(batch, gradient);
  const double start = cpu_seconds();
  constexpr int kRepeat = 3;
  for (int i = 0; i < kRepeat; ++i) trainer.gradient(batch, gradient);
  const double rate = static_cast<double>(kRepeat * windows * length) / (cpu_seconds() - start);
  const double operations =
      operations_per_token(teacher.config, length, false) + operations_per_token(student.config, length, true);
  const double peak = product_rate();
  std::printf("%.0f tokens/s a thread, %.1f GFLOP/s, %.0f %% of a plain product's %.1f GFLOP/s\n", rate,
              rate * operations * 1e-9, 100 * rate * operations / peak, peak * 1e-9);
}

}  // namespace
}  // namespace retort

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: distill_speed TEACHER STUDENT [windows per shard] [chunk]\n");
    return 2;
  }
  retort::measure(argv[1], argv[2], argc > 3 ? std::atoll(argv[3]) : 4, argc > 4 ? std::atoll(argv[4]) : 256);
}
