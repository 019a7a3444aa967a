// The rows of the table in recipes/operations.cc, each defined in recipes/operations/<command>.cc as
// `extern const Operation kInspectOperation = {...};`.
#pragma once

#include "recipes/operation.h"

namespace retort {

extern const Operation kInspectOperation;
extern const Operation kInitOperation;
extern const Operation kTokenizeOperation;
extern const Operation kPruneOperation;
extern const Operation kDistillOperation;
extern const Operation kQuantizeOperation;
extern const Operation kExportOperation;
extern const Operation kVerifyOperation;
extern const Operation kEvalOperation;
extern const Operation kGenerateOperation;
extern const Operation kBenchOperation;
extern const Operation kRunOperation;

}  // namespace retort
