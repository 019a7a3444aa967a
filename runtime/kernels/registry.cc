#include "runtime/kernels/registry.h"

#include <cpuid.h>

#include <array>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/text.h"

namespace retort {
namespace {

constexpr std::array kKernels{&kAvx512VnniKernel, &kAvx2Kernel, &kReferenceKernel};

struct Registers {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(uint32_t leaf) {
  Registers r;
  if (__get_cpuid_count(leaf, 0, &r.a, &r.b, &r.c, &r.d) == 0) return {};
  return r;
}

// The register state that the operating system saves (XCR0).
uint32_t saved_state() {
  uint32_t low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

uint32_t detect_features() {
  const Registers basic = cpuid(1), extended = cpuid(7);
  const auto bit = [](uint32_t value, int index) { return ((value >> index) & 1u) != 0; };
  if (!bit(basic.c, 27)) return 0;  // no OSXSAVE: xgetbv does not exist
  const uint32_t saved = saved_state();
  const bool ymm = (saved & 0x6u) == 0x6u, zmm = (saved & 0xe6u) == 0xe6u;
  uint32_t features = 0;
  if (ymm && bit(extended.b, 5)) features |= kAvx2;
  if (ymm && bit(basic.c, 29)) features |= kF16c;
  if (zmm && bit(extended.b, 16) && bit(extended.b, 17) && bit(extended.b, 30) && bit(extended.b, 31))
    features |= kAvx512;
  if (zmm && bit(extended.c, 11)) features |= kAvx512Vnni;
  return features;
}

}  // namespace

std::span<const Kernel* const> kernels() { return kKernels; }

bool is_supported(const Kernel& kernel) {
  static const uint32_t features = detect_features();
  return (kernel.features & ~features) == 0;
}

const Kernel& select_kernel(std::string_view name, std::span<const Kernel* const> table) {
  std::vector<std::string> supported;
  for (const Kernel* kernel : table) {
    const bool runs = is_supported(*kernel);
    if (runs && (name.empty() || name == kernel->name)) return *kernel;
    if (!runs && name == kernel->name)
      fail_usage("runtime", "kernel " + std::string(name), "this CPU does not have the instructions it needs",
                 "'retort bench --list-kernels' says which kernels run here");
    if (runs) supported.emplace_back(kernel->name);
  }
  fail_usage("runtime", "kernel " + std::string(name), "there is no kernel of this name",
             "The nearest one is " + nearest_name(name, supported));
}

}  // namespace retort
