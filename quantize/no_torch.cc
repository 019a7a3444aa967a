// Stands in for allocate/sensitivity.cc, awq/, gptq/, calibration/ and tune/ in a program without LibTorch.
#include "core/base/error.h"
#include "quantize/allocate/sensitivity.h"
#include "quantize/calibration/importance.h"
#include "quantize/calibration/layer_walk.h"
#include "quantize/tune/tune.h"

namespace retort {
namespace {

[[noreturn]] void refuse(std::string_view method) {
  fail("quantize", method, "this program has no LibTorch",
       "Use --method rtn, --method imatrix with --imatrix, or a build with LibTorch");
}

}  // namespace

std::vector<SolvedMatrix> solve_awq(std::span<const MatrixTask>, const InputStatistics*, const SolverOptions&,
                                    Context&) {
  refuse("awq");
}

std::vector<SolvedMatrix> solve_gptq(std::span<const MatrixTask>, const InputStatistics*, const SolverOptions&,
                                     Context&) {
  refuse("gptq");
}

std::vector<double> measure_sensitivity(const ModelSource&, std::span<const TensorPlan>, const QuantizeOptions&,
                                        Context&, Json&) {
  fail("quantize", "--scheme auto", "this program has no LibTorch",
       "Leave out --calibration, or use a build with LibTorch");
}

std::unique_ptr<LayerWalk> make_layer_walk(const ModelSource&, std::span<const TensorPlan>,
                                           const QuantizeOptions& options, const std::filesystem::path&, Context&) {
  refuse(options.method);
}

ImportanceMatrix measure_importance(const ModelSource&, const QuantizeOptions& options, Context&) {
  refuse(options.method);
}

void check_tuning(const ModelSource&, const QuantizeOptions&, const Context&) { refuse("tuning"); }

Json tune(const ModelSource&, std::span<SolvedTensor>, const QuantizeOptions&, const std::filesystem::path&, Context&) {
  refuse("tuning");
}

}  // namespace retort
