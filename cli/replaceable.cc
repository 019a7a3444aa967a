#include "cli/replaceable.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/text.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

// Models, the files beside them, and what commands say of their work.
constexpr std::string_view kWritten[] = {
    "*.gguf",
    "Modelfile",
    "README.md",
    "added_tokens.json",
    "additional_chat_templates",
    "additional_chat_templates/*.jinja",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "genai_config.json",
    "generation_config.json",
    "merges.txt",
    "metrics.jsonl",
    "model*.safetensors",
    "model.onnx",
    "model.onnx.data",
    "model.safetensors.index.json",
    "quantize_config.json",
    "retort.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
};

bool is_written(const std::string& name) {
  return std::ranges::any_of(kWritten, [&](std::string_view pattern) { return glob_match(pattern, name); });
}

}  // namespace

void require_replaceable(const fs::path& path) {
  if (!fs::is_directory(path)) return;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    const std::string name = entry.path().lexically_relative(path).string();
    if (!is_written(name))
      fail("output", path.string(), "it holds '" + name + "', which no command writes there",
           "Move that elsewhere, or give another --output");
  }
}

}  // namespace retort
