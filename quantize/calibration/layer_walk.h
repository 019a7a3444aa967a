// A calibration text on its way through the model, one layer in memory at a time.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quantize/quantizer.h"

namespace retort {

struct SolvedLayer {
  std::map<std::string, SolvedMatrix> matrices;       // those that the plan quantizes, by name
  std::map<std::string, std::vector<float>> vectors;  // norms and biases that factors were folded into, by name
};

class LayerWalk {
 public:
  virtual ~LayerWalk() = default;
  // Called for 0, 1, 2, ... in this order.
  virtual SolvedLayer solve_layer(int64_t layer) = 0;
  virtual int64_t windows() const = 0;  // of the text: as many as were asked for, or fewer where it is short
};

// Sequential (arXiv:2210.17323, section 4): the matrices that share an input are solved with the inputs that the
// model quantized so far gives them, q k v before o before gate up before down, and so on through the layers. Each
// token passes each matrix once: in its quantized form.
// With options.aim "float", each matrix aims at the outputs that it has in the float model, where its input is that
// of the quantized one (arXiv:2504.02692), and those that are added to the residual stream at the stream of the float
// model. That takes a second forward pass, through the float model.
// Finished layers are kept in `state` and not solved again by the next run over the same model, text and options.
// `source`, `plan` and `context` must outlive the walk. Throws in a program without LibTorch.
std::unique_ptr<LayerWalk> make_layer_walk(const ModelSource& source, std::span<const TensorPlan> plan,
                                           const QuantizeOptions& options, const std::filesystem::path& state,
                                           Context& context);

}  // namespace retort
