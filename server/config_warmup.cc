#include "server/config_warmup.h"

#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace patchflow {
namespace {

constexpr size_t kMaxSizes = 16;
constexpr int kMaxSidePx = 8192;  // The engine's kMaxSizePx.

struct Size {
  int width_px = 0;
  int height_px = 0;
};

// 0 if it is none.
int SideOf(absl::string_view text) {
  int side_px = 0;
  const bool digits = text.find_first_not_of("0123456789") == absl::string_view::npos;
  return digits && absl::SimpleAtoi(text, &side_px) && side_px <= kMaxSidePx ? side_px : 0;
}

Size SizeOf(const std::string& text) {
  const std::pair<std::string, std::string> sides = absl::StrSplit(text, absl::MaxSplits('x', 1));
  return {SideOf(sides.first), SideOf(sides.second)};
}

}  // namespace

std::vector<std::string> ReadWarmUp(MapReader& group) {
  std::vector<std::string> sizes;
  std::set<std::string> taken;
  for (const std::string& text : group.Strings("warmup")) {
    const Size size = SizeOf(text);
    sizes.push_back(absl::StrCat(size.width_px, "x", size.height_px));
    if (size.width_px == 0 || size.height_px == 0) {
      group.Fault("warmup",
                  absl::StrCat("'", text.substr(0, 60), "' is not WIDTHxHEIGHT, each 1 to ",
                               kMaxSidePx, ", such as 1024x1024"));
    } else if (!taken.insert(sizes.back()).second) {
      group.Fault("warmup", absl::StrCat(text.substr(0, 60), " is named twice"));
    }
  }
  if (sizes.size() > kMaxSizes) {
    group.Fault("warmup", absl::StrCat(sizes.size(), " sizes, limit ", kMaxSizes));
  }
  return sizes;
}

void CheckWarmUp(MapReader& group, const std::vector<std::string>& sizes, int64_t max_pixels) {
  for (const std::string& text : sizes) {
    const Size size = SizeOf(text);
    const int64_t pixels = int64_t{size.width_px} * size.height_px;
    if (max_pixels > 0 && pixels > max_pixels) {
      group.Fault("warmup", absl::StrCat(text, ": ", pixels, " pixels are above the limit of ",
                                         max_pixels, " (limits.max_pixels)"));
    }
  }
}

}  // namespace patchflow
