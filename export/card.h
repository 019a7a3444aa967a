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
// Throws where the JSON says that another model was measured than that of `digest`.
void check_measured(const Json& measured, const std::filesystem::path& path, const std::string& digest);
// What lies beside the card.
struct CardFiles {
  std::string gguf;  // the name of the GGUF file; empty: another format
  bool modelfile = false;
};
// `measured`: checked; may be empty.
std::string model_card(const ModelSource& source, const ExportOptions& options, const ExportSummary& summary,
                       std::span<const Json> measured, const CardFiles& files);

}  // namespace retort
