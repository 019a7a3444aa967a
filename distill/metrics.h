// metrics.jsonl: a JSON object a line. No times in it: the same run gives the same bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>

#include "core/base/json.h"

namespace retort {

class MetricsLog {
 public:
  // Continues after the first `keep` bytes of an earlier run's file; whatever follows them is dropped.
  MetricsLog(const std::filesystem::path& path, uint64_t keep);
  void add(const Json& line);  // written at once
  uint64_t bytes() const { return bytes_; }

 private:
  std::filesystem::path path_;
  std::ofstream file_;
  uint64_t bytes_;
};

}  // namespace retort
