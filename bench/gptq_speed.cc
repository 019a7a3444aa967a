// Speed of the parts of GPTQ against the speed of plain matrix products on the same thread, both in CPU time, so that
// the ratios also hold on a busy machine.
//   gptq_speed [features] [rows] [tokens]
#include <ATen/ATen.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>

#include "model/shards.h"
#include "quantize/calibration/second_moment.h"
#include "quantize/gptq/factor.h"
#include "quantize/gptq/solver.h"
#include "quantize/rounding.h"

namespace retort {
namespace {

double cpu_seconds(const std::function<void()>& work) {
  work();
  const std::clock_t start = std::clock();
  work();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

double product_rate() {
  const at::Tensor a = at::randn({1024, 1024}), b = at::randn({1024, 1024});
  return 2.0 * 1024 * 1024 * 1024 / cpu_seconds([&] { at::mm(a, b); });
}

void print(const char* what, double operations, double seconds, double peak) {
  std::printf("%-28s %8.3f s  %6.1f GFLOP/s  %3.0f %% of a plain product\n", what, seconds, operations / seconds * 1e-9,
              100 * operations / seconds / peak);
}

void measure(int64_t features, int64_t rows, int64_t tokens) {
  prepare_torch();
  ThreadPool pool(1);
  ProgressSink sink;
  Context context{pool, sink};
  const auto n = static_cast<double>(features), m = static_cast<double>(rows), t = static_cast<double>(tokens);
  const double peak = product_rate();
  const std::vector<at::Tensor> inputs(static_cast<size_t>((tokens + 1023) / 1024), at::randn({1024, features}));
  InputStatistics statistics;
  print("second moment", n * n * t, cpu_seconds([&] { statistics = second_moment(inputs, 1, context); }), peak);
  std::vector<at::Tensor> halves;
  for (const at::Tensor& input : inputs) halves.push_back(input.to(at::kBFloat16));
  print("second moment in bf16", n * n * t, cpu_seconds([&] { second_moment(halves, 1, context); }), peak);
  HessianFactor factor, twice, paired;
  print("factor", n * n * n / 3, cpu_seconds([&] { factor = factor_hessian(statistics, {}, context); }), peak);
  twice = factor_hessian(statistics, {.second_pass = true}, context);
  paired = factor_hessian(statistics, {.second_pass = true, .in_pairs = true}, context);
  const at::Tensor weights = at::randn({rows, features});
  const float* values = weights.const_data_ptr<float>();
  for (const char* scheme : {"int4-g128-sym", "int4-g32-asym", "q4_0"}) {
    const MatrixTask task{"matrix", rows, features, parse_scheme(scheme),
                          [&](int64_t first, int64_t count, std::span<float> out) {
                            std::copy_n(values + first * features, count * features, out.data());
                          }};
    print(scheme, n * n * m, cpu_seconds([&] { run_gptq({&task, 1}, factor, {}, context); }), peak);
    print((std::string(scheme) + ", twice").c_str(), 2 * n * n * m, cpu_seconds([&] {
            run_gptq({&task, 1}, twice, {}, context);
          }),
          peak);
    print((std::string(scheme) + ", twice, in pairs").c_str(), 2 * n * n * m, cpu_seconds([&] {
            run_gptq({&task, 1}, paired, {}, context);
          }),
          peak);
    print((std::string(scheme) + " by rtn").c_str(), n * m,
          cpu_seconds([&] { round_to_nearest(task, Rounding{}, context); }), peak);
  }
}

}  // namespace
}  // namespace retort

int main(int argc, char** argv) {
  const auto argument = [&](int index, int64_t fallback) { return argc > index ? std::atoll(argv[index]) : fallback; };
  retort::measure(argument(1, 2048), argument(2, 2048), argument(3, 16384));
}
