// Stands in for prune.cc in a program without LibTorch.
#include "core/base/error.h"
#include "prune/prune.h"

namespace retort {

PruneSummary prune_model(const ModelSource& source, const std::filesystem::path&, const PruneOptions&, Context&) {
  fail("prune", source.path().string(), "this program has no LibTorch",
       "Build it with RETORT_TORCH=ON (preset release)");
}

}  // namespace retort
