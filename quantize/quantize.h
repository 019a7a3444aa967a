// Quantizing a model: which tensor becomes what, by which method; one layer in memory at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "core/arch/family.h"
#include "core/base/context.h"
#include "core/checkpoint/model_source.h"
#include "quantize/grid.h"

namespace retort {

struct QuantizeOptions {
  std::string scheme = "int4";
  std::string size;   // with scheme "auto": "4.5bpw" or "700MiB" (allocate/assign.h)
  std::string types;  // with scheme "auto": schemes to choose from, "q4_k,q6_k"; empty: those of GGUF
  std::string method = "rtn";
  std::vector<std::pair<std::string, std::string>> keep;  // glob on tensor names -> scheme or f16, bf16; first match
  std::string imatrix, save_imatrix;  // paths of importance matrices, to use and to write; empty: none
  // Calibrated methods:
  std::string calibration;                     // path of a text (read_corpus)
  int64_t samples = 128, sequence_length = 0;  // 0: min(512, the model's context length)
  std::string group_order = "activation";      // or "none": columns are solved as they come
  double damp = 0.01;
  std::string target;   // --for: a program that shall load the result (targets.h); empty: any
  bool strict = false;  // what would be a fallback, or what the target does not load, is an Error
  bool second_pass = true;
  std::string aim = "quantized";                // or "float": outputs follow those of the float model
  std::string precision = "auto";               // of the matrix products while calibrating: f32 or bf16
  std::string grid = "mse";                     // or "max": as wide as the largest weight, without a search
  std::string scale_type = "f16";               // or "portable": scales that f16 and bf16 both hold
  int64_t learn_rounding = 0, tune_scales = 0;  // steps of each (tune/)
  int64_t outliers = 0;                         // columns of each matrix of a layer that stay in 16 bits (outliers.h)
};

struct QuantizeSummary {
  std::string scheme, method;
  std::string scale_type;  // empty: f16
  double seconds = 0;
  uint64_t peak_rss_bytes = 0, output_bytes = 0;
  double bits_per_weight = 0;  // of the whole model: all stored tensors, all parameters
  Json tuning = {};            // what tune() returned; null: nothing was tuned
  std::vector<TensorReport> tensors;
  Json allocation = nullptr;  // with scheme "auto": {"size", "measure", "expected_loss", ...}
  Json verdict = nullptr;     // of options.target: {"target", "loads", "format", "reasons", "held_as"}
  bool fell_back() const;     // any tensor, or the tuning: exit code 3
};

// Whether a run computes the model itself (calibration, sensitivity, tuning), for which it needs LibTorch.
bool computes_model(const QuantizeOptions& options);

// Writes the native quantized directory into `directory` (staged by the caller). What an interrupted calibrated run
// left there is continued when model, text and options are the same; the result has the same bytes either way.
QuantizeSummary quantize_model(const ModelSource& source, const std::filesystem::path& directory,
                               const QuantizeOptions& options, Context& context);

// The keys of the contract. The report inside an artifact leaves out what differs between two runs: times and memory.
enum class Figures { kAll, kReproducible };
Json to_json(const QuantizeSummary& summary, Figures figures = Figures::kAll);

// What each tensor will become, and why where it is not the scheme asked for: decided before any work.
struct TensorPlan {
  const ModelTensor* tensor;
  const TensorRule* rule;
  int64_t layer;         // -1: not per layer
  Scheme scheme;         // dense: stored in that type
  std::string fallback;  // empty: as asked
  // With scheme "auto": what this matrix may become, smallest first; `scheme` is the first until one is chosen
  // (allocate/assign.h). Empty: not a matrix, or kept.
  std::vector<Scheme> candidates = {};
  ScaleType scale_type = ScaleType::kF16;
  int64_t outliers = 0;  // columns that stay in 16 bits
};
// In the order of a forward pass. A pattern of `keep` that matches nothing is a usage Error.
std::vector<TensorPlan> plan_tensors(const ModelSource& source, const QuantizeOptions& options);

}  // namespace retort
