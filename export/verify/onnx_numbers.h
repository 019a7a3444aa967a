// What the nodes of an exported decoder say of its configuration. Internal to export/.
#pragma once

#include <vector>

#include "export/verify/config_numbers.h"
#include "export/verify/onnx_wire.h"

namespace retort {

// Of GroupQueryAttention its attributes; of attention in standard operators what is compared with distances and what
// queries are multiplied with; of norms what is added to the mean square.
std::vector<ConfigNumber> numbers_of_graph(const OnnxParts& parts);

}  // namespace retort
