// README.md of an artifact. It says what is known and what was not measured, and makes nothing up.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "core/checkpoint/model_source.h"
#include "export/exporter.h"

namespace retort {

// The JSON object that `retort eval` wrote to a file. Another file is an Error.
Json read_measured(const std::filesystem::path& path);
// `measured`: those that were measured on this model; may be empty.
// `gguf`: the name of the GGUF file, where the artifact has one; else empty.
std::string model_card(const ModelSource& source, const ExportOptions& options, const ExportSummary& summary,
                       std::span<const Json> measured, const std::string& gguf);

}  // namespace retort
