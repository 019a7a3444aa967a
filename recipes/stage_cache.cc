#include "recipes/stage_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <vector>

#include "core/base/digest.h"
#include "core/base/error.h"
#include "core/base/files.h"
#include "recipes/staged_run.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr int64_t kSettledNanoseconds = 2'000'000'000;  // a file as young as this may change within its time stamp

// Reports that lie beside a model and say how it was made, times included: no part of its content.
constexpr std::array<std::string_view, 2> kReports{"retort.json", "metrics.jsonl"};

bool is_content(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  return entry.is_regular_file() && std::find(kReports.begin(), kReports.end(), name) == kReports.end();
}

struct Stamp {
  int64_t size = 0, changed = 0;  // nanoseconds since 1970

  explicit Stamp(const fs::path& path) {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) fail("read", path.string(), std::strerror(errno));
    size = info.st_size;
    changed = info.st_mtim.tv_sec * 1'000'000'000LL + info.st_mtim.tv_nsec;
  }
  bool settled() const {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count() - changed > kSettledNanoseconds;
  }
};

// "output", or "output.gguf" where the result is a file of that kind.
std::string extension_of(const Stage& stage) {
  if (stage.operation->output != OutputKind::kByFormat) return "";
  const Params params = stage.checked(stage.params);
  return writes_directory(*stage.operation, params) ? "" : "." + params.text("format");
}

std::string device_kind(const std::string& device) { return device.substr(0, device.find(':')); }

int take_lock(const fs::path& directory) {
  const fs::path path = directory / ".cache" / "lock";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) fail("run", path.string(), std::strerror(errno));
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  ::close(fd);
  fail("run", directory.string(), "another run works in it", "Wait for it, or give another --output");
}

fs::path prepared(fs::path directory, bool overwrite) {
  const fs::path cache = directory / ".cache";
  if (fs::exists(directory) && !fs::is_directory(directory))
    fail("run", directory.string(), "it is not a directory", "Give another --output");
  if (!overwrite && fs::exists(directory) && !fs::is_empty(directory) && !fs::exists(cache))
    fail("run", directory.string(), "it exists and no recipe made it", "Give another --output, or --overwrite");
  fs::create_directories(cache);
  return directory;
}

}  // namespace

DigestMemo::DigestMemo(fs::path store) : store_(std::move(store)) {
  if (!fs::exists(store_)) return;
  try {
    const Json stored = read_json_file(store_);
    for (const auto& [path, value] : stored.items()) known_[path] = value;
  } catch (const Error&) {
    known_.clear();
  }
}

std::string DigestMemo::of_file(const fs::path& path) {
  const std::string name = fs::canonical(path).string();
  const Stamp stamp(path);
  const Json expected{{"size", stamp.size}, {"changed", stamp.changed}};
  if (const auto found = known_.find(name); found != known_.end()) {
    Json without = found->second;
    if (without.is_object() && without.erase("digest") == 1 && without == expected)
      return json_required<std::string>(found->second, "digest", store_.string());
  }
  const std::string digest = digest_of_path(path);
  known_[name] = expected;
  known_[name]["digest"] = digest;
  if (!stamp.settled()) known_.erase(name);
  return digest;
}

std::string DigestMemo::of(const fs::path& path) {
  if (!fs::is_directory(path)) return of_file(path);
  const fs::path root = fs::canonical(path);
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(root))
    if (is_content(entry)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  Digest digest;
  for (const fs::path& file : files) digest.update(file.lexically_relative(root).string() + '\0' + of_file(file));
  return digest.hex();
}

void DigestMemo::save() const {
  Json all = Json::object();
  for (const auto& [path, value] : known_) all[path] = value;
  write_text_file(store_, all.dump(1, ' ', false, Json::error_handler_t::replace));
}

StageCache::StageCache(fs::path directory, bool overwrite)
    : directory_(prepared(std::move(directory), overwrite)),
      lock_(take_lock(directory_)),
      digests_(directory_ / ".cache" / "digests.json") {
  if (!overwrite) return;
  for (const auto& old : fs::directory_iterator(directory_ / ".cache"))
    if (old.path().filename() != "lock") fs::remove_all(old.path());
}

StageCache::~StageCache() { ::close(lock_); }

std::optional<StageRecord> StageCache::find(const Stage& stage, const std::string& key) {
  const fs::path record_path = entry(key) / "stage.json";
  if (!fs::exists(record_path)) return std::nullopt;
  try {
    const Json json = read_json_file(record_path);
    const std::string label = record_path.string();
    StageRecord record{json.at("metrics"), json_required<bool>(json, "as_asked", label),
                       json_required<double>(json, "seconds", label), json_required<uint64_t>(json, "bytes", label),
                       json_required<std::string>(json, "digest", label)};
    const fs::path output = entry(key) / ("output" + extension_of(stage));
    if (stage.has_output() && (!fs::exists(output) || digests_.of(output) != record.digest)) return std::nullopt;
    return record;
  } catch (const std::exception&) {
    return std::nullopt;  // a damaged record is one that is not there: the stage runs again
  }
}

StageRecord StageCache::run(const Stage& stage, const std::string& key, const Json& values, Context& context) {
  const Operation& operation = *stage.operation;
  const Params params = stage.checked(values);
  StagedOutput staged(entry(key), StagedOutput::Kind::kDirectory, true, operation.resumable);
  const fs::path output = staged.staging() / ("output" + extension_of(stage));
  if (stage.has_output() && writes_directory(operation, params)) fs::create_directories(output);
  const auto started = std::chrono::steady_clock::now();
  const OperationResult result = run_into(operation, params, staged, stage.has_output() ? output : fs::path(), context);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
  StageRecord record{result.json, result.as_asked, seconds.count(), 0, ""};
  if (stage.has_output()) {
    record.bytes = bytes_below(output);
    record.digest = digests_.of(output);
  }
  const Json json{{"stage", stage.name},          {"operation", operation.name},
                  {"version", operation.version}, {"params", values},
                  {"seed", context.seed},         {"device", context.device},
                  {"as_asked", record.as_asked},  {"seconds", record.seconds},
                  {"bytes", record.bytes},        {"digest", record.digest},
                  {"metrics", record.metrics}};
  write_text_file(staged.staging() / "stage.json", json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
  staged.commit();
  return record;
}

fs::path StageCache::shown_path(const Stage& stage) const { return directory_ / (stage.name + extension_of(stage)); }

void StageCache::show(const Stage& stage, const std::string& key) const {
  if (!stage.has_output()) return;
  const fs::path shown = shown_path(stage), link = directory_ / ".cache" / "link";
  if (fs::exists(fs::symlink_status(shown)) && !fs::is_symlink(shown))
    fail("run", shown.string(), "it exists and no recipe made it", "Move it away, or give another --output");
  fs::remove(link);
  fs::create_symlink(fs::path(".cache") / key / ("output" + extension_of(stage)), link);
  fs::rename(link, shown);
}

std::string stage_key(const Stage& stage, const std::map<std::string, std::string>& digests, const Context& context) {
  Json params = stage.params;
  for (const auto& [param, digest] : digests) params[param] = digest;
  const nlohmann::json sorted = nlohmann::json{{"operation", stage.operation->name},
                                               {"version", stage.operation->version},
                                               {"params", nlohmann::json(params)},
                                               {"seed", context.seed},
                                               {"device", device_kind(context.device)}};
  return digest_of(sorted.dump());
}

}  // namespace retort
