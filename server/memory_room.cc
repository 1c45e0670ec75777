#include "server/memory_room.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace patchflow {
namespace {

constexpr int64_t kProcessBytes = 256 << 20;

// The number behind `name` in a file of names and numbers; nothing if there is none.
std::optional<int64_t> NumberIn(const std::string& file, const std::string& name) {
  std::ifstream in(file);
  std::string word;
  while (in >> word) {
    if (word == name) {
      int64_t value = 0;
      return in >> value ? std::optional<int64_t>(value) : std::nullopt;
    }
  }
  return std::nullopt;
}

// The number that is all of a file; nothing for "max".
std::optional<int64_t> NumberOf(const std::string& file) {
  std::ifstream in(file);
  std::string word;
  int64_t value = 0;
  return in >> word && absl::SimpleAtoi(word, &value) ? std::optional<int64_t>(value)
                                                      : std::nullopt;
}

std::string Show(int64_t bytes) { return absl::StrCat(bytes >> 20, " MiB"); }

absl::Status Refuse(const std::string& where, int64_t needed, int64_t free) {
  return MakeError(
      absl::StatusCode::kResourceExhausted, reason::kNotEnoughMemory,
      absl::StrCat(where, ": the new version needs about ", Show(needed), " beside the old one, ",
                   Show(std::max<int64_t>(0, free)), " are free"),
      {{"needed_bytes", absl::StrCat(needed)}, {"free_bytes", absl::StrCat(free)}});
}

absl::Status CheckDevice(const std::string& group, const worker::v1::RankStatus& rank,
                         double growth) {
  const auto total = static_cast<int64_t>(rank.memory_total_bytes());
  const auto peak =
      static_cast<int64_t>(std::max(rank.memory_peak_bytes(), rank.memory_used_bytes()));
  const int64_t free = total - peak - kContextBytes;
  const int64_t needed =
      static_cast<int64_t>(std::ceil(static_cast<double>(peak) * growth)) + kContextBytes;
  return needed <= free ? absl::OkStatus()
                        : Refuse(absl::StrCat("group ", group, ", rank ", rank.rank(), " on ",
                                              rank.device(), " of ", Show(total)),
                                 needed, free);
}

}  // namespace

int64_t AvailableHostMemory(const std::string& root) {
  std::optional<int64_t> available = NumberIn(root + "/proc/meminfo", "MemAvailable:");
  if (available.has_value()) {
    *available *= 1024;
  }
  const std::string cgroup = root + "/sys/fs/cgroup/memory.";
  const auto limit = NumberOf(cgroup + "max");
  const auto used = NumberOf(cgroup + "current");
  if (limit.has_value() && used.has_value()) {
    const int64_t cache = NumberIn(cgroup + "stat", "inactive_file").value_or(0);
    available = std::min(available.value_or(INT64_MAX), *limit - *used + cache);
  }
  return available.has_value() ? std::max<int64_t>(0, *available) : -1;
}

absl::Status CheckRoom(const std::vector<GroupMemory>& groups, int64_t old_bytes, int64_t new_bytes,
                       int64_t host_available) {
  const double growth =
      old_bytes > 0 ? std::max(1.0, static_cast<double>(new_bytes) / static_cast<double>(old_bytes))
                    : 1.0;
  int64_t host = 0;
  for (const GroupMemory& group : groups) {
    bool on_gpus = false;
    for (const auto& rank : group.ranks) {
      if (rank.memory_total_bytes() == 0) {
        continue;
      }
      on_gpus = true;
      if (absl::Status status = CheckDevice(group.name, rank, growth); !status.ok()) {
        return status;
      }
    }
    host += kProcessBytes + (on_gpus ? new_bytes : 2 * new_bytes);
  }
  if (host_available >= 0 && host > host_available) {
    return Refuse("the host", host, host_available);
  }
  return absl::OkStatus();
}

}  // namespace patchflow
