// What --overwrite may take the place of.
#pragma once

#include <filesystem>

namespace retort {

// An Error that names a file in the directory `path` which no command writes: whoever gave the wrong directory loses
// nothing. Anything else passes.
void require_replaceable(const std::filesystem::path& path);

}  // namespace retort
