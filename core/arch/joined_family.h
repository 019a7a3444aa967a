// Families that compute what another does and store it otherwise: some matrices of a layer lie in one, row after row.
// Their models are read as those of the other family: the matrices are taken apart, and config.json is restated, so
// that nothing behind the checkpoint knows of them. To add one: a row in joined_families.cc, and a golden model in
// tests/oracles/make_families.py.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/arch/family.h"
#include "core/base/json.h"

namespace retort {

struct Join {
  std::string_view hf_name, gguf_name;  // of the stored matrix; "{}" stands for the layer index
  std::span<const Role> parts;          // in the order of their rows
};

struct JoinedFamily {
  std::string_view model_type, gguf_architecture, read_as;
  void (*restate)(Json& config);  // keys that the other family has not, or takes otherwise where they are absent
  std::span<const Join> joins;
};

std::span<const JoinedFamily> joined_families();
const JoinedFamily* find_joined_family(std::string_view model_type);                 // nullptr: not known
const JoinedFamily* find_joined_family_by_gguf(std::string_view gguf_architecture);  // likewise

// The model_type that the checkpoint has.
std::string_view stored_family(const ModelConfig& config);
// The configuration of the family that it is read as.
Json restated_config(const Json& config, const JoinedFamily& family);

// Where a checkpoint has the rows of a tensor of the model: in a tensor of its own, or from `first` on in one that
// config.stored_as joins. `shape`: of the stored one.
struct StoredPlace {
  std::string hf_name, gguf_name;
  bool joined = false;
  int64_t first = 0;
  std::vector<int64_t> shape;
};
StoredPlace stored_place(const ModelConfig& config, const ExpectedTensor& tensor);

}  // namespace retort
