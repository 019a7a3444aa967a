// The kinds of ModelSource, and what they share. Internal to this folder.
#pragma once

#include "core/checkpoint/model_source.h"

namespace retort {

std::unique_ptr<ModelSource> open_directory(const std::filesystem::path& directory);
std::unique_ptr<ModelSource> open_gguf(const std::filesystem::path& path);

// A file that begins as GGUF files do.
bool is_gguf(const std::filesystem::path& path);

// Our own bug when it throws: rows outside the tensor, or a buffer of `given` elements instead of `needed`.
void check_rows(const ModelTensor& tensor, int64_t first, int64_t count, size_t given, size_t needed);

std::unique_ptr<Tokenizer> tokenizer_of_gguf(const std::filesystem::path& path);

// The lines that tell of `names`, tensors that the configuration does not ask for; a long list is cut.
void list_extra_tensors(const std::vector<std::string>& names, std::vector<std::string>& problems);

}  // namespace retort
