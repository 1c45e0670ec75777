#include "parallel/layout.h"

#include <numeric>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace patchflow {
namespace {

constexpr int kMaxDegree = 1024;

struct Key {
  const char* name;
  int Layout::*value;
};
// In canonical order.
constexpr Key kKeys[] = {
    {"pipefusion", &Layout::pipefusion},
    {"patches", &Layout::patches},
    {"distrifusion", &Layout::distrifusion},
    {"warmup_steps", &Layout::warmup_steps},
    {"ulysses", &Layout::ulysses},
    {"ring", &Layout::ring},
    {"tensor", &Layout::tensor},
    {"guidance", &Layout::guidance},
};

struct Switch {
  const char* name;
  bool Layout::*value;
};
// In canonical order, behind `blocks`.
constexpr Switch kSwitches[] = {
    {"shared_text", &Layout::shared_text},
    {"cuda_graphs", &Layout::cuda_graphs},
};

template <typename... Parts>
absl::Status Refuse(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("layout: ", parts...));
}

bool ReadInt(absl::string_view text, int min, int max, int& value) {
  return absl::SimpleAtoi(text, &value) && value >= min && value <= max;
}

absl::Status ReadBlocks(absl::string_view text, Layout& layout) {
  for (const absl::string_view part : absl::StrSplit(text, '+')) {
    int count = 0;
    if (!ReadInt(part, 1, kMaxDegree, count)) {
      return Refuse("blocks: '", text, "' is not a count for each stage such as 3+5");
    }
    layout.blocks.push_back(count);
  }
  return absl::OkStatus();
}

absl::Status ReadKey(absl::string_view name, absl::string_view value, Layout& layout) {
  if (name == "blocks") {
    return ReadBlocks(value, layout);
  }
  for (const Switch& one : kSwitches) {
    if (name != one.name) continue;
    return absl::SimpleAtob(value, &(layout.*one.value))
               ? absl::OkStatus()
               : Refuse(name, ": '", value, "' is not true or false");
  }
  std::vector<std::string> names;
  for (const Key& key : kKeys) {
    if (name == key.name) {
      const int min = name == "warmup_steps" ? 0 : 1;
      return ReadInt(value, min, kMaxDegree, layout.*key.value)
                 ? absl::OkStatus()
                 : Refuse(name, ": '", value, "' is not a number from ", min, " to ", kMaxDegree);
    }
    names.emplace_back(key.name);
  }
  return Refuse("unknown key '", name, "'; there are ", absl::StrJoin(names, ", "),
                ", blocks, shared_text, cuda_graphs");
}

absl::Status CheckBlocks(const Layout& layout, int num_blocks) {
  if (layout.pipefusion > num_blocks) {
    return Refuse("pipefusion: ", layout.pipefusion, " stages for ", num_blocks, " blocks");
  }
  if (layout.blocks.empty()) {
    return absl::OkStatus();
  }
  const std::string list = absl::StrJoin(layout.blocks, "+");
  if (static_cast<int>(layout.blocks.size()) != layout.pipefusion) {
    return Refuse("blocks: ", list, " lists ", layout.blocks.size(), " stages, pipefusion has ",
                  layout.pipefusion);
  }
  const int sum = std::accumulate(layout.blocks.begin(), layout.blocks.end(), 0);
  if (sum != num_blocks) {
    return Refuse("blocks: ", list, " is ", sum, " blocks, the model has ", num_blocks);
  }
  return absl::OkStatus();
}

absl::Status CheckHeads(const Layout& layout, int heads) {
  if (layout.tensor > heads) {
    return Refuse("tensor: ", layout.tensor, " ranks for ", heads, " heads");
  }
  for (const int held : {heads / layout.tensor, (heads + layout.tensor - 1) / layout.tensor}) {
    if (held % layout.ulysses != 0) {
      return Refuse("ulysses: ", held, " heads",
                    layout.tensor > 1
                        ? absl::StrCat(" (of ", heads, ", split by tensor=", layout.tensor, ")")
                        : "",
                    " can't be divided over ", layout.ulysses, " ranks");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckStale(const Layout& layout) {
  if (layout.distrifusion > 1) {
    if (layout.has_pipefusion() || layout.ulysses > 1 || layout.ring > 1) {
      return Refuse(
          "distrifusion already divides the tokens: it can't be combined with "
          "pipefusion, ulysses or ring");
    }
  }
  if (layout.is_stale() && layout.warmup_steps < 1) {
    return Refuse(
        "warmup_steps: 0 is less than 1: the first step of a stale method has no earlier "
        "keys and values to use");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Layout> ParseLayout(std::string_view text) {
  Layout layout;
  if (text.empty() || text == "serial") {
    return layout;
  }
  std::set<std::string> given;
  for (const absl::string_view part :
       absl::StrSplit(absl::string_view(text.data(), text.size()), ',')) {
    const std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(part, absl::MaxSplits('=', 1));
    const absl::string_view name = absl::StripAsciiWhitespace(pair.first);
    if (auto read = ReadKey(name, absl::StripAsciiWhitespace(pair.second), layout); !read.ok()) {
      return read;
    }
    if (!given.insert(std::string(name)).second) {
      return Refuse(name, " is given twice");
    }
  }
  if (!given.contains("pipefusion") && (given.contains("patches") || given.contains("blocks"))) {
    return Refuse("patches and blocks mean nothing without pipefusion");
  }
  if (layout.pipefusion > 1 && !given.contains("patches")) {
    layout.patches = 2 * layout.pipefusion;
  }
  if (given.contains("warmup_steps") && !layout.is_stale()) {
    return Refuse("warmup_steps means nothing without pipefusion or distrifusion");
  }
  if (layout.shared_text && layout.ranks() == 1) {
    return Refuse("shared_text means nothing for one rank");
  }
  return layout;
}

std::string ToString(const Layout& layout) {
  const Layout defaults;
  std::vector<std::string> parts;
  for (const Key& key : kKeys) {
    const int value = layout.*key.value;
    const bool matters = key.value == &Layout::patches || key.value == &Layout::pipefusion
                             ? layout.has_pipefusion()
                         : key.value == &Layout::warmup_steps ? layout.is_stale()
                                                              : value != defaults.*key.value;
    if (matters) {
      parts.push_back(absl::StrCat(key.name, "=", value));
    }
  }
  if (!layout.blocks.empty()) {
    parts.push_back(absl::StrCat("blocks=", absl::StrJoin(layout.blocks, "+")));
  }
  for (const Switch& one : kSwitches) {
    const bool value = layout.*one.value;
    if (value != defaults.*one.value) {
      parts.push_back(absl::StrCat(one.name, "=", value ? 1 : 0));
    }
  }
  return parts.empty() ? "serial" : absl::StrJoin(parts, ",");
}

absl::Status CheckLayout(const Layout& layout, int ranks, const TransformerConfig& model) {
  if (layout.guidance > 2) {
    return Refuse("guidance: ", layout.guidance, " is more than the 2 branches of guidance");
  }
  if (layout.ranks() != ranks) {
    return Refuse("'", ToString(layout), "' is for ", layout.ranks(), " ranks, the group has ",
                  ranks);
  }
  if (auto status = CheckStale(layout); !status.ok()) {
    return status;
  }
  if (auto status = CheckHeads(layout, model.num_heads); !status.ok()) {
    return status;
  }
  return CheckBlocks(layout, model.num_blocks);
}

absl::Status CheckTokens(const Layout& layout, TokenGrid grid) {
  const int64_t shares = int64_t{layout.patches} * layout.sequence();
  if (grid.size() / layout.patches / layout.sequence() < 1) {
    return Refuse("'", ToString(layout), "' divides an image into ", shares, " shares, but one of ",
                  grid.h, " x ", grid.w, " tokens has only ", grid.size());
  }
  return absl::OkStatus();
}

BlockRange BlocksOf(const Layout& layout, int stage, int num_blocks) {
  if (layout.blocks.empty()) {
    const UnitRange share = ShareOf(num_blocks, {stage, layout.pipefusion});
    return {static_cast<int>(share.begin), static_cast<int>(share.end)};
  }
  const auto first = layout.blocks.begin();
  const int begin = std::accumulate(first, first + stage, 0);
  return {begin, begin + layout.blocks[stage]};
}

}  // namespace patchflow
