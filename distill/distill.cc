#include "distill/distill.h"

#include "distill/inputs.h"
#include "distill/run.h"
#include "model/editable.h"
#include "model/shards.h"
#include "model/training/memory.h"

namespace retort {
namespace {

// What of the summary is the same in every run of the same inputs.
Json lasting_report(const DistillSummary& summary, const Json& identity) {
  Json report{{"operation", "distill"}};
  report.update(to_json(summary));
  for (const char* key : {"resumed_from", "seconds", "tokens_per_second"}) report.erase(key);
  report["inputs"] = identity;
  return report;
}

}  // namespace

DistillSummary distill_model(const ModelSource& teacher_source, const ModelSource& student_source,
                             const std::filesystem::path& directory, const DistillOptions& options, Context& context) {
  prepare_torch();
  require_editable(student_source, "distill");
  const at::Device device = parse_device(context.device);
  const int64_t length = window_length(teacher_source.config(), student_source.config(), options.sequence_length);
  TrainingText text = read_training_text(teacher_source, student_source, options.data);
  TrainingWindows windows(std::move(text.ids), length, options.held_out, context.seed);
  const Json identity = run_identity(teacher_source, student_source, options, context);
  const StateStore store(directory, identity);
  const LossOptions loss{
      .temperature = options.temperature, .kl_weight = options.kl_weight, .vocabulary = text.vocabulary};
  Plan plan = make_plan(options, windows);
  if (device.is_cpu())
    plan.side_by_side = shards_side_by_side(
        memory_need(teacher_source.config(), student_source.config(), plan.windows_per_shard * length, loss.chunk,
                    (windows.training() + windows.held_out()) * length),
        "distill", "a smaller --micro-batch-tokens needs less", context);
  const Teacher teacher{teacher_source.config(), load_weights(teacher_source, {compute_type(device), device})};
  StudentParameters student = load_student(student_source, device);
  Run run({options, plan, loss, teacher, student, windows, store}, directory / "metrics.jsonl", context);
  run.train();
  DistillSummary summary = run.summary();
  summary.teacher_parameters = teacher_source.config().parameters();
  summary.student_parameters = student_source.config().parameters();

  ModelWriter writer(directory, student_source.side_files());
  write_student(student, student_source, writer);
  writer.finish(student_source.config().json, lasting_report(summary, identity));
  store.remove();
  return summary;
}

}  // namespace retort
