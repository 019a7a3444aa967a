// How active each column of the matrices' inputs is, measured on a text.
#pragma once

#include "core/base/context.h"
#include "core/checkpoint/model_source.h"
#include "quantize/imatrix_file.h"
#include "quantize/quantize.h"

namespace retort {

// Runs the text of `options` through the model as it is, one layer in memory at a time. Mean squares of the inputs of
// all matrices of the layers; those of embedding and head are not measured, as with llama-imatrix. Inputs that are not
// finite have no entry. Throws in a program without LibTorch.
ImportanceMatrix measure_importance(const ModelSource& source, const QuantizeOptions& options, Context& context);

}  // namespace retort
