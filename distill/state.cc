#include "distill/state.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/safetensors.h"

namespace retort {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPartial = ".partial";

std::array<std::pair<const char*, at::Tensor>, 3> named_tensors(const RunState& state) {
  return {{{"values", state.values}, {"mean", state.adam.mean}, {"square", state.adam.square}}};
}

void write_tensors(const RunState& state, const fs::path& folder) {
  SafetensorsWriter writer(folder);
  for (const auto& [name, tensor] : named_tensors(state)) {
    const at::Tensor host = tensor.cpu();
    const std::span values(host.const_data_ptr<float>(), static_cast<size_t>(host.numel()));
    writer.add(name, DType::kF32, {host.numel()}, std::as_bytes(values));
  }
  writer.finish();
}

void read_tensors(const RunState& state, const fs::path& folder) {
  const SafetensorsFile file(folder / "model.safetensors");
  for (const auto& [name, tensor] : named_tensors(state)) {
    const auto info = std::ranges::find(file.tensors(), name, &TensorInfo::name);
    if (info == file.tensors().end() || info->dtype != DType::kF32 || info->shape != tensor.sizes().vec())
      fail("distill", folder.string(), std::string("the checkpoint has no ") + name + " of the student's size",
           "Remove the folder to start again");
    at::Tensor host = at::empty(tensor.sizes(), at::kFloat);
    std::memcpy(host.mutable_data_ptr<float>(), file.data(*info).data(), info->bytes);
    tensor.copy_(host);
  }
}

// The newest complete checkpoint; empty: none. Names sort by step.
fs::path newest(const fs::path& directory) {
  fs::path best;
  if (fs::is_directory(directory))
    for (const auto& entry : fs::directory_iterator(directory))
      if (entry.path().extension() != kPartial) best = std::max(best, entry.path());
  return best;
}

std::string name_of_step(int64_t step) {
  const std::string digits = std::to_string(step);
  return "step-" + std::string(12 - std::min<size_t>(12, digits.size()), '0') + digits;
}

}  // namespace

StateStore::StateStore(const fs::path& directory, Json identity)
    : directory_(directory / "resume"), identity_(std::move(identity)) {}

void StateStore::save(const RunState& state) const {
  const fs::path final_name = directory_ / name_of_step(state.steps()), old = newest(directory_);
  if (old == final_name) return;
  fs::path folder = final_name;
  folder += kPartial;
  fs::remove_all(folder);
  fs::create_directories(folder);
  write_tensors(state, folder);
  Json held_out = Json::array();
  for (const HeldOutLoss& e : state.held_out) held_out.push_back({e.step, e.loss, e.kl, e.cross_entropy});
  const Json json{{"identity", identity_},
                  {"steps", state.steps()},
                  {"seconds", state.seconds},
                  {"loss", state.loss},
                  {"metrics_bytes", state.metrics_bytes},
                  {"held_out", held_out}};
  write_text_file(folder / "state.json", json.dump(1));
  fs::rename(folder, final_name);
  if (!old.empty()) fs::remove_all(old);
}

void StateStore::load(RunState& state) const {
  const fs::path folder = newest(directory_);
  if (folder.empty()) return;
  const std::string label = (folder / "state.json").string();
  const Json json = read_json_file(label);
  if (json.value("identity", Json()) != identity_)
    fail("distill", directory_.string(), "an interrupted run with other inputs or options left a checkpoint here",
         "Repeat that command, or remove the folder to start again");
  state.adam.steps = json_required<int64_t>(json, "steps", label);
  state.seconds = json_required<double>(json, "seconds", label);
  state.loss = json_required<double>(json, "loss", label);
  state.metrics_bytes = json_required<uint64_t>(json, "metrics_bytes", label);
  for (const auto& [step, loss, kl, cross_entropy] :
       json_required<std::vector<std::tuple<int64_t, double, double, double>>>(json, "held_out", label))
    state.held_out.push_back({step, loss, kl, cross_entropy});
  read_tensors(state, folder);
}

void StateStore::remove() const { fs::remove_all(directory_); }

}  // namespace retort
