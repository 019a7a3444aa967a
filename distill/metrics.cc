#include "distill/metrics.h"

#include "core/base/error.h"

namespace retort {

namespace fs = std::filesystem;

MetricsLog::MetricsLog(const fs::path& path, uint64_t keep) : path_(path), bytes_(keep) {
  if (keep > 0) {
    if (!fs::is_regular_file(path) || fs::file_size(path) < keep)
      fail("distill", path.string(), "it is shorter than the checkpoint says",
           "Remove the folder it lies in to start again");
    fs::resize_file(path, keep);
  }
  file_.open(path, std::ios::binary | (keep > 0 ? std::ios::app : std::ios::trunc));
}

void MetricsLog::add(const Json& line) {
  const std::string text = line.dump() + "\n";
  file_ << text << std::flush;
  if (!file_) fail("distill", path_.string(), "it cannot be written");
  bytes_ += text.size();
}

}  // namespace retort
