// README.md of an artifact. It says what is known and what was not measured, and makes nothing up.
#pragma once

#include <span>
#include <string>

#include "core/checkpoint/model_source.h"
#include "export/exporter.h"

namespace retort {

// `measured`: the JSON objects that `retort eval` gave for this model; may be empty.
// `gguf`: the name of the GGUF file, where the artifact has one; else empty.
std::string model_card(const ModelSource& source, const ExportOptions& options, const ExportSummary& summary,
                       std::span<const Json> measured, const std::string& gguf);

}  // namespace retort
