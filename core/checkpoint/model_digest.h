// Tells whether two paths hold the same model.
#pragma once

#include <filesystem>
#include <string>

namespace retort {

// Of a GGUF file, or of config.json and the files of weights in a directory: a text that is written beside them, or
// another tokenizer, leaves it as it is. Reads them all.
std::string digest_of_model(const std::filesystem::path& path);

}  // namespace retort
