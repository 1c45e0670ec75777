#include "server/check.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "server/check_devices.h"
#include "server/host_gpus.h"
#include "server/memory_table.h"
#include "server/tls_pair.h"
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
  auto pair = ReadTlsPair(tls, absl::Now());
  if (!pair.ok()) {
    return RowOf(tls.name, pair.status(), "");
  }
  const absl::Duration left = pair->not_after - absl::Now();
  CheckRow row{tls.name, CheckRow::kGood,
               absl::StrCat(pair->subject, ", expires ",
                            absl::FormatTime("%Y-%m-%d", pair->not_after, absl::UTCTimeZone()),
                            " (in ", absl::ToInt64Hours(left) / 24, " days)",
                            pair->client_ca.empty() ? "" : demanded)};
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

absl::Status TryBind(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int code = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); code != 0) {
    return absl::UnavailableError(absl::StrCat(host, ": ", gai_strerror(code)));
  }
  const int opened = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int yes = 1;
  setsockopt(opened, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  const bool bound = bind(opened, found->ai_addr, found->ai_addrlen) == 0;
  const std::string why = std::strerror(errno);
  close(opened);
  freeaddrinfo(found);
  return bound ? absl::OkStatus()
               : absl::UnavailableError(absl::StrCat(host, ":", port, ": ", why));
}

CheckRow CheckAddress(const char* what, const std::string& address) {
  if (address.rfind("unix:", 0) == 0) {
    const auto folder = std::filesystem::absolute(address.substr(5)).parent_path();
    const bool writable = access(folder.c_str(), W_OK) == 0;
    return RowOf(what,
                 writable ? absl::OkStatus()
                          : absl::UnavailableError(
                                absl::StrCat(folder.string(), ": ", std::strerror(errno))),
                 address);
  }
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') {
    host = host.substr(1, host.size() - 2);
  }
  return RowOf(what, TryBind(host, address.substr(colon + 1)), absl::StrCat(address, " is free"));
}

// Every two that name a port name different ones.
void CheckPorts(const ServerConfig& config, std::vector<CheckRow>& rows) {
  std::set<std::string> taken;
  for (const auto& [what, address] :
       {std::pair{"server.listen", config.listen}, std::pair{"server.metrics", config.metrics},
        std::pair{"server.health", config.health}, std::pair{"server.admin", config.admin}}) {
    if (address.empty()) {
      continue;
    }
    if (!absl::EndsWith(address, ":0") && !taken.insert(address).second) {
      rows.push_back({what, CheckRow::kBad, absl::StrCat(address, " is given twice")});
    } else {
      rows.push_back(CheckAddress(what, address));
    }
  }
}

// Degrees multiply to the number of ranks; the rest depends on the model, and the worker checks it.
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

void CheckGroup(const GroupConfig& group, const absl::StatusOr<HostGpus>& gpus,
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
  if (!group.warmup.empty()) {
    rows.push_back({what + "warmup", CheckRow::kGood,
                    absl::StrCat(absl::StrJoin(group.warmup, ", "),
                                 "; whether the model makes them is seen when it loads")});
  }
  if (group.ranks > 1 && group.device != "cpu") {
    rows.push_back(CheckSharedMemory(group, what + "ranks"));
  }
  for (CheckRow& row : CheckDevices(group, what, gpus)) {
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
  CheckPorts(config, rows);
  const bool any_local = std::any_of(config.groups.begin(), config.groups.end(),
                                     [](const GroupConfig& group) { return group.local(); });
  if (any_local) {
    auto binary = FindWorkerBinary(config.worker_binary);
    rows.push_back(RowOf("worker_binary", binary.status(), binary.ok() ? *binary : ""));
  }
  const absl::StatusOr<HostGpus> gpus = any_local
                                            ? FindGpus(nvml, std::getenv("CUDA_VISIBLE_DEVICES"))
                                            : absl::StatusOr<HostGpus>(HostGpus{});
  for (const GroupConfig& group : config.groups) {
    CheckGroup(group, gpus, rows);
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
