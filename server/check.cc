#include "server/check.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "server/check_devices.h"
#include "server/check_ports.h"
#include "server/check_worker.h"
#include "server/host_gpus.h"
#include "server/memory_table.h"
#include "server/security_files.h"
#include "server/tokens.h"
#include "server/weight_files.h"
#include "server/worker_process.h"

namespace patchflow {
namespace {

constexpr absl::Duration kExpiresSoon = absl::Hours(24 * 14);
constexpr int64_t kSharedMemoryPerRank = 64 << 20;  // NCCL's buffers between ranks of one host.

CheckRow RowOf(std::string what, const absl::Status& status, std::string good) {
  return status.ok() ? CheckRow{std::move(what), CheckRow::kGood, std::move(good)}
                     : CheckRow{std::move(what), CheckRow::kBad, std::string(status.message())};
}

CheckRow CheckTls(const TlsConfig& tls, const char* demanded) {
  auto pair = ReadTlsPair(FilesOf(tls), absl::Now());
  if (!pair.ok()) {
    return RowOf(tls.name, pair.status(), "");
  }
  const absl::Duration left = pair->not_after - absl::Now();
  CheckRow row{tls.name, CheckRow::kGood,
               absl::StrCat(pair->subject, ", expires ",
                            absl::FormatTime("%Y-%m-%d", pair->not_after, absl::UTCTimeZone()),
                            " (in ", absl::ToInt64Hours(left) / 24, " days)",
                            pair->authorities.empty() ? "" : demanded)};
  if (left < kExpiresSoon) {
    row.verdict = CheckRow::kWarning;
  }
  return row;
}

CheckRow CheckTokens(const std::string& file) {
  auto tokens = TokenTable::Load(file);
  return RowOf("security.tokens", tokens.status(),
               tokens.ok() ? absl::StrCat(tokens->size(), " in ", file) : "");
}

// Degrees multiply to the number of ranks; the rest depends on the model, and the worker is asked.
CheckRow CheckLayout(const GroupConfig& group, const std::string& what) {
  const int64_t ranks = DegreesOf(group.layout).ranks();
  const std::string shown = group.layout.empty() ? "serial" : group.layout;
  if (ranks != group.ranks) {
    return {what, CheckRow::kBad,
            absl::StrCat(shown, " is for ", ranks, " ranks, the group has ", group.ranks)};
  }
  return {what, CheckRow::kGood, absl::StrCat(shown, " on ", group.ranks, " ranks")};
}

CheckRow CheckSharedMemory(const GroupConfig& group, const std::string& what) {
  struct statvfs shm {};
  if (statvfs("/dev/shm", &shm) != 0) {
    return {what, CheckRow::kBad, absl::StrCat("/dev/shm: ", std::strerror(errno))};
  }
  const auto free = static_cast<int64_t>(shm.f_bavail * shm.f_frsize);
  const int64_t needed = group.ranks * kSharedMemoryPerRank;
  return {what, free < needed ? CheckRow::kBad : CheckRow::kGood,
          absl::StrCat("/dev/shm has ", free >> 20, " MiB free, ", group.ranks, " ranks need ",
                       needed >> 20, " MiB")};
}

void CheckGroup(const GroupConfig& group, const absl::StatusOr<std::string>& worker,
                const Supervision& supervision, const absl::StatusOr<HostGpus>& gpus,
                std::vector<CheckRow>& rows) {
  const std::string what = absl::StrCat("groups[", group.name, "].");
  if (!group.local()) {
    rows.push_back(
        {what + "workers", CheckRow::kGood,
         absl::StrCat(absl::StrJoin(group.workers, ", "), " is not started here; not looked at")});
    return;
  }
  auto weights = CheckWeightFiles(group.model);
  rows.push_back(RowOf(what + "model", weights.status(),
                       weights.ok() ? absl::StrCat(weights->files, " files of weights, ",
                                                   weights->bytes >> 20, " MiB, whole")
                                    : ""));
  rows.push_back(CheckLayout(group, what + "layout"));
  const WorkerOpinion opinion =
      worker.ok()
          ? AskWorker(*worker, group, supervision, what + "worker")
          : WorkerOpinion{{what + "worker", CheckRow::kWarning,
                           "there is none to ask whether the model allows layout and sizes"}};
  rows.push_back(opinion.row);
  if (group.ranks > 1 && group.device != "cpu") {
    rows.push_back(CheckSharedMemory(group, what + "ranks"));
  }
  for (CheckRow& row : CheckDevices(group, what, gpus, opinion.fits)) {
    rows.push_back(std::move(row));
  }
}

// A folder, that of `path` or an ancestor that exists, in which files can be made.
CheckRow CheckWritable(const char* what, std::filesystem::path path) {
  const std::string shown = path.string();
  std::error_code error;
  while (!std::filesystem::is_directory(path, error) && path.has_relative_path()) {
    path = path.parent_path();
  }
  const bool writable = access(path.c_str(), W_OK | X_OK) == 0;
  return RowOf(
      what,
      writable ? absl::OkStatus()
               : absl::UnavailableError(absl::StrCat(path.string(), ": ", std::strerror(errno))),
      absl::StrCat(shown, " can be written"));
}

}  // namespace

std::vector<CheckRow> CheckConfig(const ServerConfig& config, const std::string& nvml) {
  std::vector<CheckRow> rows;
  if (config.security.tls.on()) {
    rows.push_back(CheckTls(config.security.tls, ", client certificates demanded"));
  }
  if (config.security.workers.tls.on()) {
    rows.push_back(CheckTls(config.security.workers.tls, ", workers' certificates demanded"));
  }
  if (!config.security.tokens.empty()) {
    rows.push_back(CheckTokens(config.security.tokens));
  }
  for (CheckRow& row : CheckPorts(config)) {
    rows.push_back(std::move(row));
  }
  const bool any_local = std::any_of(config.groups.begin(), config.groups.end(),
                                     [](const GroupConfig& group) { return group.local(); });
  const absl::StatusOr<std::string> binary =
      any_local ? FindWorkerBinary(config.worker_binary) : std::string();
  if (any_local) {
    rows.push_back(RowOf("worker_binary", binary.status(), binary.ok() ? *binary : ""));
  }
  const absl::StatusOr<HostGpus> gpus = any_local
                                            ? FindGpus(nvml, std::getenv("CUDA_VISIBLE_DEVICES"))
                                            : absl::StatusOr<HostGpus>(HostGpus{});
  for (const GroupConfig& group : config.groups) {
    CheckGroup(group, binary, config.supervision, gpus, rows);
  }
  for (CheckRow& row : CheckSharedDevices(config, gpus)) {
    rows.push_back(std::move(row));
  }
  if (!config.audit.file.empty()) {
    rows.push_back(
        CheckWritable("audit.file", std::filesystem::path(config.audit.file).parent_path()));
  }
  if (!config.store.directory.empty()) {
    rows.push_back(CheckWritable("store.directory", config.store.directory));
  }
  return rows;
}

std::string CheckTable(const std::vector<CheckRow>& rows) {
  size_t width = 0;
  for (const CheckRow& row : rows) {
    width = std::max(width, row.what.size());
  }
  std::string table;
  for (const CheckRow& row : rows) {
    const char* verdict = row.verdict == CheckRow::kGood      ? "ok  "
                          : row.verdict == CheckRow::kWarning ? "warn"
                                                              : "BAD ";
    absl::StrAppend(&table, verdict, "  ", row.what, std::string(width - row.what.size() + 2, ' '),
                    row.text, "\n");
  }
  return table;
}

bool CheckPassed(const std::vector<CheckRow>& rows) {
  return std::none_of(rows.begin(), rows.end(),
                      [](const CheckRow& row) { return row.verdict == CheckRow::kBad; });
}

}  // namespace patchflow
