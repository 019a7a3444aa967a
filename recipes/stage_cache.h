// What the stages of a recipe left in the work directory, found again by what went into them.
//
//   OUT/student -> .cache/<key>/output      the result of the stage 'student' under a readable name
//   OUT/.cache/<key>/stage.json             its parameters, inputs, measurements and the digest of its result
//   OUT/.cache/digests.json                 digests of files that did not change since (path, size, time of change)
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "recipes/recipe.h"

namespace retort {

// Content digests of files and directories; a file is read again only when its size or time of change differs.
class DigestMemo {
 public:
  explicit DigestMemo(std::filesystem::path store);   // a damaged store counts as empty
  // As digest_of_path, without the reports in a directory (retort.json, metrics.jsonl): the times in them differ.
  std::string of(const std::filesystem::path& path);
  void save() const;

 private:
  std::string of_file(const std::filesystem::path& path);

  std::filesystem::path store_;
  std::map<std::string, Json> known_;
};

// What a finished stage recorded.
struct StageRecord {
  Json metrics;  // what the operation measured
  bool as_asked = true;
  double seconds = 0;
  uint64_t bytes = 0;  // of the result; 0 without one
  std::string digest;  // of the result; empty without one
};

class StageCache {
 public:
  // Takes `directory` for this process alone. One that exists, is not empty and was not made by a recipe is refused
  // unless `overwrite`, which also forgets what an earlier recipe left.
  StageCache(std::filesystem::path directory, bool overwrite);
  ~StageCache();
  StageCache(const StageCache&) = delete;
  StageCache& operator=(const StageCache&) = delete;

  DigestMemo& digests() { return digests_; }
  // Nothing: not there, or its result is no longer what the stage left.
  std::optional<StageRecord> find(const Stage& stage, const std::string& key);
  // Runs the stage; its entry appears whole or not at all. `values` are the parameters with their paths.
  StageRecord run(const Stage& stage, const std::string& key, const Json& values, Context& context);
  // Lets the readable name of the stage point to the entry.
  void show(const Stage& stage, const std::string& key) const;
  std::filesystem::path shown_path(const Stage& stage) const;

 private:
  std::filesystem::path entry(const std::string& key) const { return directory_ / ".cache" / key; }

  std::filesystem::path directory_;
  int lock_ = -1;
  DigestMemo digests_;
};

// The key: everything that decides the bytes of the result. `digests` are those of the stage's inputs, by parameter.
std::string stage_key(const Stage& stage, const std::map<std::string, std::string>& digests, const Context& context);

}  // namespace retort
