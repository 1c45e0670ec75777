#include "server/check_devices.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "server/memory_room.h"
#include "server/memory_table.h"

namespace patchflow {
namespace {

constexpr double kTight = 0.9;  // Of a GPU's memory.

std::string Gib(int64_t bytes) {
  return absl::StrFormat("%.2f", static_cast<double>(bytes) / (int64_t{1} << 30));
}

// Whether the worker will take GPUs: as it decides itself.
bool OnGpus(const GroupConfig& group, const absl::StatusOr<HostGpus>& gpus) {
  return group.device == "cuda" || (group.device == "auto" && gpus.ok() && !gpus->gpus.empty());
}

// Those of its ranks, as far as there are any.
HostGpus GpusOf(const GroupConfig& group, const HostGpus& all) {
  HostGpus own{.driver = all.driver, .gpus = {}, .links = {}};
  const auto first = static_cast<size_t>(group.first_gpu);
  const size_t end = std::min(first + static_cast<size_t>(group.ranks), all.gpus.size());
  for (size_t i = first; i < end; ++i) {
    own.gpus.push_back(all.gpus[i]);
    own.links.emplace_back(all.links[i].begin() + group.first_gpu,
                           all.links[i].begin() + static_cast<ptrdiff_t>(end));
  }
  return own;
}

std::string Describe(const HostGpus& gpus) {
  std::vector<std::string> kinds;
  for (const HostGpu& gpu : gpus.gpus) {
    kinds.push_back(
        absl::StrCat(gpu.name, " of ", Gib(gpu.memory_bytes), " GiB (", gpu.bus_id, ")"));
  }
  return absl::StrCat(absl::StrJoin(kinds, ", "), "; driver ", gpus.driver);
}

CheckRow DevicesRow(const GroupConfig& group, const std::string& what,
                    const absl::StatusOr<HostGpus>& gpus) {
  if (group.device == "cpu") {
    return {what, CheckRow::kGood, "device cpu: no GPU is asked for"};
  }
  if (!gpus.ok() && absl::IsInvalidArgument(gpus.status())) {
    return {what, CheckRow::kWarning, std::string(gpus.status().message())};
  }
  if (!OnGpus(group, gpus)) {
    return {what, CheckRow::kGood,
            absl::StrCat("device auto: CPUs, as ",
                         gpus.ok() ? "no GPU is found" : std::string(gpus.status().message()))};
  }
  if (!gpus.ok()) {
    return {what, CheckRow::kBad,
            absl::StrCat(group.ranks, " GPUs are asked for: ", gpus.status().message())};
  }
  const size_t found = gpus->gpus.size();
  const HostGpus own = GpusOf(group, *gpus);
  if (static_cast<int>(own.gpus.size()) < group.ranks) {
    const std::string from =
        group.first_gpu > 0 ? absl::StrCat(" from number ", group.first_gpu, " on") : "";
    return {what, CheckRow::kBad,
            absl::StrCat(group.ranks, " GPUs", from, " are asked for, ", found,
                         " found: ", Describe(*gpus))};
  }
  return {what, CheckRow::kGood,
          absl::StrCat(group.ranks, " of ", found, " GPUs: ", Describe(own))};
}

CheckRow LinksRow(const std::string& what, const HostGpus& gpus) {
  std::map<GpuLink, std::vector<std::string>> pairs;
  for (size_t i = 0; i < gpus.gpus.size(); ++i) {
    for (size_t j = i + 1; j < gpus.gpus.size(); ++j) {
      pairs[gpus.links[i][j]].push_back(absl::StrCat(i, "-", j));
    }
  }
  std::vector<std::string> kinds;
  for (const auto& [link, which] : pairs) {
    kinds.push_back(pairs.size() == 1
                        ? absl::StrCat(Name(link), " between all")
                        : absl::StrCat(Name(link), " between ", absl::StrJoin(which, " ")));
  }
  const bool slow = pairs.count(GpuLink::kProcessors) != 0;
  return {what, slow ? CheckRow::kWarning : CheckRow::kGood, absl::StrJoin(kinds, "; ")};
}

std::string RanksText(int first, int last) {
  return first == last ? absl::StrCat("rank ", first) : absl::StrCat("ranks ", first, "-", last);
}

// Neighbours that need the same are one entry.
CheckRow MemoryRow(const GroupConfig& group, const std::string& what, const ModelShape& shape,
                   int64_t width_px, int64_t height_px, const HostGpus* gpus) {
  const LayoutDegrees layout = DegreesOf(group.layout);
  const bool wide = group.dtype == "float32" || (group.dtype == "auto" && gpus == nullptr);
  CheckRow row{what, CheckRow::kGood, ""};
  const auto of_rank = [&](int rank) {
    return MemoryOfRank(shape, layout, rank, width_px, height_px, wide ? 4 : 2, group.batch_size);
  };
  const auto room_of = [&](int rank) {
    return gpus != nullptr && static_cast<size_t>(rank) < gpus->gpus.size()
               ? gpus->gpus[static_cast<size_t>(rank)].memory_bytes
               : 0;
  };
  for (int first = 0; first < group.ranks;) {
    const RankMemory memory = of_rank(first);
    const int64_t room = room_of(first);
    int last = first;
    while (last + 1 < group.ranks && of_rank(last + 1) == memory && room_of(last + 1) == room) {
      ++last;
    }
    absl::StrAppend(&row.text, first == 0 ? "" : "; ", RanksText(first, last), ": ",
                    Gib(memory.weights), " weights + ", Gib(memory.caches), " caches + ",
                    Gib(memory.work), " work");
    int64_t needed = memory.total();
    if (room > 0) {
      needed += kContextBytes;
      absl::StrAppend(&row.text, " + ", Gib(kContextBytes), " CUDA");
      if (needed > room) {
        row.verdict = CheckRow::kBad;
      } else if (static_cast<double>(needed) > kTight * static_cast<double>(room) &&
                 row.verdict == CheckRow::kGood) {
        row.verdict = CheckRow::kWarning;
      }
    }
    absl::StrAppend(&row.text, " = about ", Gib(needed), room > 0 ? " of " + Gib(room) : "",
                    " GiB");
    first = last + 1;
  }
  return row;
}

}  // namespace

std::vector<CheckRow> CheckDevices(const GroupConfig& group, const std::string& prefix,
                                   const absl::StatusOr<HostGpus>& gpus, bool fits) {
  std::vector<CheckRow> rows = {DevicesRow(group, prefix + "devices", gpus)};
  std::optional<HostGpus> own;
  if (OnGpus(group, gpus) && gpus.ok()) {
    own = GpusOf(group, *gpus);
  }
  if (own.has_value() && own->gpus.size() > 1) {
    rows.push_back(LinksRow(prefix + "links", *own));
  }
  auto shape = ReadModelShape(group.model);
  if (!shape.ok()) {
    rows.push_back({prefix + "memory", CheckRow::kWarning,
                    absl::StrCat("not known: ", shape.status().message())});
    return rows;
  }
  if (!fits || DegreesOf(group.layout).ranks() != group.ranks) {
    return rows;  // Another row says so.
  }
  std::vector<std::string> sizes = group.warmup;
  if (sizes.empty()) {
    sizes = {absl::StrCat(shape->own_size_px, "x", shape->own_size_px)};
  }
  for (const std::string& size : sizes) {
    const std::pair<std::string, std::string> sides = absl::StrSplit(size, 'x');
    int64_t width_px = 0;
    int64_t height_px = 0;
    if (absl::SimpleAtoi(sides.first, &width_px) && absl::SimpleAtoi(sides.second, &height_px)) {
      rows.push_back(MemoryRow(group, absl::StrCat(prefix, "memory ", size), *shape, width_px,
                               height_px, own.has_value() ? &*own : nullptr));
    }
  }
  return rows;
}

std::vector<CheckRow> CheckSharedDevices(const ServerConfig& config,
                                         const absl::StatusOr<HostGpus>& gpus) {
  std::map<int, std::vector<std::string>> names;  // Of each GPU.
  for (const GroupConfig& group : config.groups) {
    if (!group.local() || !OnGpus(group, gpus)) {
      continue;
    }
    for (int rank = 0; rank < group.ranks; ++rank) {
      names[group.first_gpu + rank].push_back(group.name);
    }
  }
  std::vector<std::string> shared;
  for (const auto& [gpu, groups] : names) {
    if (groups.size() > 1) {
      shared.push_back(absl::StrCat("GPU ", gpu, ": ", absl::StrJoin(groups, ", ")));
    }
  }
  if (shared.empty()) {
    return {};
  }
  return {{"groups", CheckRow::kWarning,
           absl::StrCat(absl::StrJoin(shared, "; "),
                        "; what they need adds up, unless first_gpu parts them")}};
}

}  // namespace patchflow
