#include "model/editable.h"

#include <string>

#include "core/base/error.h"

namespace retort {
namespace {

bool is_editable(const Scheme& scheme) {
  return scheme.dense == DType::kF32 || scheme.dense == DType::kF16 || scheme.dense == DType::kBF16;
}

}  // namespace

void require_editable(const ModelSource& source, std::string_view operation) {
  if (source.container() != "huggingface")
    fail(operation, source.path().string(), "it is not a Hugging Face directory with float weights",
         "Prune and distil before quantizing or exporting");
  for (const ModelTensor& tensor : source.tensors())
    if (!is_editable(tensor.scheme))
      fail(operation, source.path().string() + ", " + tensor.name, "its type is not f32, f16 or bf16");
}

}  // namespace retort
