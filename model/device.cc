#include <ATen/Context.h>
#include <c10/core/Device.h>
#include <dlfcn.h>

#include <charconv>
#include <mutex>

#include "core/base/error.h"
#include "model/shards.h"

namespace retort {
namespace {

// The program links only the CPU part of LibTorch. Torch remembers its first look for CUDA, so this comes before
// anything that asks at::hasCUDA().
void load_cuda() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr) return;
    fail("device", "cuda", std::string("LibTorch's CUDA part cannot be loaded: ") + dlerror(),
         "Install the CUDA build of LibTorch with its CUDA libraries, or use --device cpu");
  });
  if (!at::hasCUDA()) fail("device", "cuda", "there is no NVIDIA GPU or no driver for it", "Use --device cpu");
}

int64_t parse_index(const std::string& name, std::string_view digits) {
  int64_t index = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  if (error != std::errc() || end != digits.data() + digits.size() || index < 0)
    fail_usage("device", name, "not a device", "Devices are cpu, cuda and cuda:N");
  return index;
}

}  // namespace

at::Device parse_device(const std::string& name) {
  if (name == "cpu") return at::kCPU;
  if (name != "cuda" && !name.starts_with("cuda:"))
    fail_usage("device", name, "not a device", "Devices are cpu, cuda and cuda:N");
  const int64_t index = name == "cuda" ? 0 : parse_index(name, std::string_view(name).substr(5));
  load_cuda();
  const auto count = static_cast<int64_t>(at::detail::getCUDAHooks().deviceCount());
  if (index >= count) fail("device", name, "this machine has " + std::to_string(count) + " GPUs, counted from 0");
  return {at::kCUDA, static_cast<at::DeviceIndex>(index)};
}

}  // namespace retort
