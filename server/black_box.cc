#include "server/black_box.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "server/clock.h"
#include "server/log.h"
#include "server/version.h"

namespace patchflow {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr char kPrefix[] = "black-box-";
constexpr size_t kMaxRecorderBytes = 512 << 10;
constexpr absl::string_view kBlanks = " \n";
constexpr int kDirectoryBits = 0700;
constexpr int kFileBits = 0600;  // From its first moment on, since the directory may be anybody's.

std::string ReadSome(const std::string& path, size_t limit) {
  std::ifstream file(path, std::ios::binary);
  std::string text(limit, '\0');
  file.read(text.data(), static_cast<std::streamsize>(limit));
  text.resize(static_cast<size_t>(std::max<std::streamsize>(file.gcount(), 0)));
  return text;
}

// The recorder's lines by kind: see worker/black_box.h.
ordered_json RecorderOf(const std::string& path) {
  std::string text = ReadSome(path, kMaxRecorderBytes);
  text.erase(std::remove(text.begin(), text.end(), '\0'), text.end());
  ordered_json recorder = {{"kept", ordered_json::array()},
                           {"events", ordered_json::array()},
                           {"stacks", ordered_json::array()}};
  std::vector<std::string> events;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const size_t last = line.find_last_not_of(kBlanks);
    if (last == absl::string_view::npos) {
      continue;
    }
    const std::string kept(line.substr(0, last + 1));
    if (kept.rfind("- ", 0) == 0) {
      recorder["kept"].push_back(kept.substr(2));
    } else if (kept.size() > 8 && std::all_of(kept.begin(), kept.begin() + 8, ::isdigit)) {
      events.push_back(kept);
    } else {
      recorder["stacks"].push_back(kept);
    }
  }
  std::sort(events.begin(), events.end());
  recorder["events"] = events;
  return recorder;
}

ordered_json BeatOf(const worker::v1::WatchResponse& beat, absl::Duration age) {
  ordered_json ranks = ordered_json::array();
  for (const worker::v1::RankStatus& rank : beat.ranks()) {
    ranks.push_back({{"rank", rank.rank()},
                     {"device", rank.device()},
                     {"phase", worker::v1::JobPhase_Name(rank.phase())},
                     {"step", rank.step()},
                     {"step_age_seconds", absl::ToDoubleSeconds(FromProto(rank.step_age()))},
                     {"memory_used_bytes", rank.memory_used_bytes()},
                     {"memory_peak_bytes", rank.memory_peak_bytes()},
                     {"memory_total_bytes", rank.memory_total_bytes()},
                     {"communication_bytes", rank.communication_bytes()}});
  }
  return {{"age_seconds", absl::ToDoubleSeconds(age)},
          {"state", worker::v1::WorkerState_Name(beat.state())},
          {"failure", beat.failure()},
          {"ranks", ranks}};
}

ordered_json ConfigurationOf(const GroupConfig& group) {
  return {{"model", group.model},
          {"model_name", group.model_name},
          {"device", group.device},
          {"dtype", group.dtype},
          {"ranks", group.ranks},
          {"first_gpu", group.first_gpu},
          {"layout", group.layout},
          {"threads", group.threads},
          {"default_guidance", group.default_guidance},
          {"warmup", group.warmup},
          {"batch_size", group.batch_size}};
}

ordered_json IdsOf(const std::vector<std::shared_ptr<Generation>>& generations) {
  ordered_json ids = ordered_json::array();
  for (const auto& generation : generations) {
    ids.push_back(generation->spec().request_id);
  }
  return ids;
}

ordered_json ProcessOf(WorkerProcess& process) {
  ordered_json json = {{"pid", process.pid()}};
  if (const auto end = process.Poll(); end.has_value()) {
    json["end"] = {{"text", end->text},
                   {"signal", end->signal},
                   {"status", end->status},
                   {"memory_peak_bytes", end->memory_peak_bytes}};
  } else {
    json["state"] = process.State();
  }
  json["kernel_memory_kills"] = process.KernelMemoryKills();
  json["stderr"] = process.LastLines();
  return json;
}

ordered_json BoxOf(const Group& group, const BlackBoxes::Death& death, absl::Time now) {
  ordered_json box = {{"version", 1},
                      {"time", absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", now, absl::UTCTimeZone())},
                      {"group", group.config().name},
                      {"server_version", kVersion},
                      {"loss", {{"kind", Name(death.kind)}, {"why", death.why}}},
                      {"failures_before", group.failures()},
                      {"configuration", ConfigurationOf(group.config())}};
  if (auto info = group.info(); info != nullptr) {
    box["worker"] = {{"layout", info->layout()},
                     {"plan_digest", info->plan_digest()},
                     {"device", info->model().device()},
                     {"dtype", info->model().dtype()},
                     {"load_seconds", absl::ToDoubleSeconds(FromProto(info->load_time()))}};
  }
  if (const std::string id = group.last_request_id(); !id.empty()) {
    box["request"] = {{"id", id}, {"running", !group.running().empty()}};
  }
  if (const auto running = group.running(); running.size() > 1) {
    box["batch"] = IdsOf(running);
  }
  if (const auto tail = group.tail(); !tail.empty()) {
    box["tail"] = IdsOf(tail);
  }
  if (death.since_beat >= absl::ZeroDuration()) {
    box["beat"] = BeatOf(group.last_beat(), death.since_beat);
  }
  if (death.process != nullptr) {
    box["process"] = ProcessOf(*death.process);
  }
  if (!death.recorder.empty()) {
    box["recorder"] = RecorderOf(death.recorder);
  }
  return box;
}

bool WriteFile(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".part";
  std::error_code error;
  fs::remove(temporary, error);
  const int made = open(temporary.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, kFileBits);
  if (made < 0) {
    return false;
  }
  close(made);
  {
    std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
    file << text << '\n';
    file.flush();
    if (!file) {
      fs::remove(temporary, error);
      return false;
    }
  }
  fs::rename(temporary, path, error);
  return !error;
}

}  // namespace

std::string DefaultBlackBoxDirectory() {
  std::error_code error;
  const fs::path base = fs::temp_directory_path(error);
  return (error ? fs::path("/tmp") : base) / absl::StrCat("patchflow-", getuid(), "-black-boxes");
}

BlackBoxes::BlackBoxes(BlackBoxConfig config) : config_(std::move(config)) {
  if (config_.directory.empty()) {
    config_.directory = DefaultBlackBoxDirectory();
  }
}

// The default's name can be foreseen, so somebody else may have made that one.
bool BlackBoxes::MakeDirectory() {
  std::error_code error;
  fs::create_directories(fs::path(config_.directory).parent_path(), error);
  struct stat found {};
  return (mkdir(config_.directory.c_str(), kDirectoryBits) == 0 || errno == EEXIST) &&
         lstat(config_.directory.c_str(), &found) == 0 &&
         (config_.directory != DefaultBlackBoxDirectory() ||
          (S_ISDIR(found.st_mode) && found.st_uid == getuid()));
}

std::string BlackBoxes::Record(const Group& group, const Death& death) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const absl::Time now = absl::Now();
  const std::string path = absl::StrCat(
      config_.directory, "/", kPrefix,
      absl::FormatTime("%Y%m%dT%H%M%E6SZ", now, absl::UTCTimeZone()), "-", group.config().name,
      death.process == nullptr ? "" : absl::StrCat("-", death.process->pid()), ".json");
  const std::string text =
      BoxOf(group, death, now).dump(1, ' ', false, ordered_json::error_handler_t::replace);
  if (static_cast<int64_t>(text.size()) > config_.max_bytes || !MakeDirectory() ||
      !WriteFile(path, text)) {
    LogWarning("no black box was written",
               {{"path", path}, {"bytes", static_cast<int64_t>(text.size())}});
    return "";
  }
  Prune();
  return path;
}

void BlackBoxes::Prune() {
  struct Box {
    std::string path;
    int64_t bytes = 0;
  };
  std::vector<Box> boxes;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(config_.directory, error)) {
    if (entry.path().filename().string().rfind(kPrefix, 0) == 0) {
      boxes.push_back({entry.path().string(), static_cast<int64_t>(entry.file_size(error))});
    }
  }
  // Their names are in the order of time.
  std::sort(boxes.begin(), boxes.end(), [](const Box& a, const Box& b) { return a.path > b.path; });
  int64_t bytes = 0;
  for (size_t i = 0; i < boxes.size(); ++i) {
    bytes += boxes[i].bytes;
    if (i >= static_cast<size_t>(config_.max_files) || bytes > config_.max_bytes) {
      fs::remove(boxes[i].path, error);
    }
  }
}

}  // namespace patchflow
