// Stands in for distill.cc in a program without LibTorch.
#include "core/base/error.h"
#include "distill/distill.h"

namespace retort {

DistillSummary distill_model(const ModelSource&, const ModelSource& student, const std::filesystem::path&,
                             const DistillOptions&, Context&) {
  fail("distill", student.path().string(), "this program has no LibTorch",
       "Build it with RETORT_TORCH=ON (preset release)");
}

}  // namespace retort
