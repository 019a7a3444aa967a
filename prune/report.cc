#include "prune/prune.h"

namespace retort {

Json to_json(const PruneSummary& s) {
  return {{"parameters_before", s.parameters_before},
          {"parameters_after", s.parameters_after},
          {"layers_before", s.layer_scores.size()},
          {"layers_after", s.kept_layers.size()},
          {"ffn_before", s.ffn_before},
          {"ffn_after", s.ffn_after},
          {"layer_scores", s.layer_scores},
          {"kept_layers", s.kept_layers},
          {"kept_channels", s.kept_channels},
          {"calibration_tokens", s.calibration_tokens},
          {"seconds", s.seconds}};
}

}  // namespace retort
