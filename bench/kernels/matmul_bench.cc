// How close the matrix kernels come to the machine: bytes of weights per second for one token (decode) next to the
// read bandwidth probed at the same moment, and operations per second for many tokens (prompts).
//
// usage: matmul_bench [THREADS [SCHEME]...]    0 threads: all; without a scheme: a list of them
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "runtime/kernels/registry.h"
#include "runtime/linear.h"

namespace retort {
namespace {

constexpr int64_t kRows = 2048, kCols = 5632;   // a down projection of TinyLlama
constexpr int64_t kWeights = int64_t{1} << 28;  // per format: far more than a cache holds
constexpr int64_t kTokens = 64;                 // of a prompt
constexpr int kRepeats = 7;

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Reads all bytes once and returns a number that depends on them.
uint64_t sum_words(const AlignedBuffer& buffer, ThreadPool& threads) {
  constexpr int64_t kShard = 1 << 20;
  const auto shards = static_cast<int64_t>(buffer.size()) / kShard;
  std::vector<uint64_t> sums(static_cast<size_t>(shards));
  parallel(threads, shards, [&](int64_t i) {
    const auto* words = reinterpret_cast<const uint64_t*>(buffer.data() + i * kShard);
    uint64_t parts[8] = {};
    for (int64_t w = 0; w < kShard / 8; w += 8)
      for (int j = 0; j < 8; ++j) parts[j] += words[w + j];
    sums[static_cast<size_t>(i)] = std::accumulate(parts, parts + 8, uint64_t{0});
  });
  return std::accumulate(sums.begin(), sums.end(), uint64_t{0});
}

// As many copies of one matrix as a model has. Its codes cost nothing to make: speed does not depend on them.
std::vector<Projection> make_stack(const Scheme& scheme, ThreadPool& threads) {
  QuantizedMatrix matrix = make_quantized(scheme, kRows, kCols);
  for (size_t i = 0; i < matrix.codes.size(); ++i) matrix.codes[i] = static_cast<uint8_t>(i * 7) & scheme.max_code();
  std::vector<Projection> stack;
  for (int64_t i = 0; i < kWeights / (kRows * kCols); ++i) {
    std::vector<Linear> one;
    one.push_back({.weights = PackedMatrix(matrix, "bench", threads), .bias = {}});
    stack.emplace_back(std::move(one));
  }
  return stack;
}

double time_of(const std::vector<Projection>& stack, int64_t tokens, const Kernel& kernel, ThreadPool& threads) {
  std::vector<float> x(static_cast<size_t>(tokens * kCols), 0.5f), out(static_cast<size_t>(tokens * kRows));
  InputBuffer buffer(tokens, kCols);
  float* outputs[] = {out.data()};
  return seconds_of([&] {
    for (const Projection& projection : stack) projection.apply(x.data(), tokens, outputs, buffer, kernel, threads);
  });
}

void measure(const char* scheme_name, const AlignedBuffer& probe, ThreadPool& threads) {
  const std::vector<Projection> stack = make_stack(parse_scheme(scheme_name), threads);
  const auto bytes = static_cast<double>(stack.size() * stack.front().linears().front().weights.bytes());
  for (const Kernel* kernel : kernels()) {
    if (!is_supported(*kernel) || kernel == &kReferenceKernel) continue;
    std::vector<double> probed, decode, prompt;
    for (int i = 0; i < kRepeats; ++i) {
      uint64_t sum = 0;
      probed.push_back(static_cast<double>(probe.size()) / seconds_of([&] { sum = sum_words(probe, threads); }) / 1e9);
      if (sum == 1) std::puts("");  // keeps the sum
      decode.push_back(bytes / time_of(stack, 1, *kernel, threads) / 1e9);
    }
    const double operations = 2.0 * kTokens * static_cast<double>(kRows * kCols) * static_cast<double>(stack.size());
    for (int i = 0; i < 3; ++i) prompt.push_back(operations / time_of(stack, kTokens, *kernel, threads) / 1e9);
    std::printf("%-15s %-12s %8.1f GB/s of %5.1f = %3.0f %%   %8.0f Gop/s\n", scheme_name, kernel->name, median(decode),
                median(probed), 100 * median(decode) / median(probed), median(prompt));
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace retort

int main(int argc, char** argv) {
  retort::ThreadPool threads(argc > 1 ? std::atoi(argv[1]) : 0);
  const retort::AlignedBuffer probe(size_t{512} << 20);
  std::memset(probe.data(), 1, probe.size());  // pages that were never written are all the same one
  std::printf("%d threads\n%-15s %-12s %31s %17s\n", threads.size(), "weights", "kernel", "one token", "64 tokens");
  std::vector<const char*> schemes(argv + std::min(argc, 2), argv + argc);
  if (schemes.empty())
    schemes = {"int4-g128-sym", "int4-g32-asym", "int8-g128-sym", "int8-channel-sym",
               "q4_0",          "q5_1",          "iq4_nl",        "q2_k",
               "q3_k",          "q4_k",          "q5_k",          "q6_k",
               "iq4_xs"};
  for (const char* scheme : schemes) retort::measure(scheme, probe, threads);
}
