// Families that compute what another does and store it otherwise: some matrices of a layer lie in one, row after row.
// Their models are read as those of the other family: the matrices are taken apart, and config.json is restated, so
// that nothing behind the checkpoint knows of them. To add one: a row in joined_families.cc, and a golden model in
// tests/oracles/make_families.py.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

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

// The configuration of the family that it is read as.
Json restated_config(const Json& config, const JoinedFamily& family);

// Where a checkpoint of config.stored_as has the rows of a weight; none: under its own name.
struct JoinedRows {
  const Join* join;
  int64_t first = 0, rows = 0;  // `rows`: of the whole matrix
};
std::optional<JoinedRows> joined_rows(const ModelConfig& config, const ExpectedTensor& tensor);

}  // namespace retort
