#include <vector>

#include "recipes/operation.h"
#include "recipes/operations/rows.h"

namespace retort {

std::span<const Operation> operations() {
  // In the order of `retort --help`. A local static: rows of other files are complete when it is first used.
  static const std::vector<Operation> table{
      kInspectOperation,
      kInitOperation,
      kPruneOperation,
      kDistillOperation,
      kQuantizeOperation,
      kExportOperation,
      kVerifyOperation,
      kEvalOperation,
      kTokenizeOperation,
      kGenerateOperation,
      kBenchOperation,
      kRunOperation,
  };
  return table;
}

}  // namespace retort
