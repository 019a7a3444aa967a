#include "distill/distill.h"

namespace retort {
namespace {

Json to_json(const HeldOutLoss& loss) {
  return {{"step", loss.step}, {"loss", loss.loss}, {"kl", loss.kl}, {"cross_entropy", loss.cross_entropy}};
}

}  // namespace

Json to_json(const DistillSummary& summary) {
  Json held_out = Json::array();
  for (const HeldOutLoss& loss : summary.held_out) held_out.push_back(to_json(loss));
  return {{"steps", summary.steps},
          {"tokens", summary.tokens},
          {"resumed_from", summary.resumed_from},
          {"seconds", summary.seconds},
          {"tokens_per_second", summary.tokens_per_second},
          {"loss", summary.loss},
          {"teacher_parameters", summary.teacher_parameters},
          {"student_parameters", summary.student_parameters},
          {"held_out", held_out}};
}

}  // namespace retort
