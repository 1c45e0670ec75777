#include <algorithm>
#include <string>

#include "engine/kernels/attention_sm90.h"

namespace patchflow {
namespace {

constexpr int64_t kWarpgroupRows = 64;
constexpr int64_t kKeysOfTile = 128;

// Time in one unit: a tile of 128 keys takes so much by the schedule, as bench/results/
// attention_h100.json has it for full waves.
constexpr double kTileOfTwo = 15;
constexpr double kTileOfThree = 18;
constexpr double kTilesToBeginAndEnd = 2;  // What a thread block takes beside its tiles.
// A second kernel, and its traffic: microseconds, and bytes a microsecond, of what takes
// kTileOfThree in 2 microseconds.
constexpr double kUnitsOfMicrosecond = kTileOfThree / 2;
constexpr double kMergeMicroseconds = 3;
constexpr double kMergeBytesOfMicrosecond = 3e6;

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// When all end, if `whole` blocks that take `whole_time` begin one after the other wherever one has
// ended, and then `pieces` that take `piece_time`.
double Makespan(int64_t whole, double whole_time, int64_t pieces, double piece_time,
                int64_t multiprocessors) {
  const int64_t late = whole % multiprocessors;
  double early_end = static_cast<double>(whole / multiprocessors) * whole_time;
  double late_end = early_end + whole_time;
  double end = late > 0 ? late_end : early_end;
  while (pieces > 0) {
    const bool early = early_end <= late_end || late == 0;
    (early ? early_end : late_end) += piece_time;
    end = std::max(end, early ? early_end : late_end);
    pieces -= early ? multiprocessors - late : late;
  }
  return end;
}

struct Shape {
  int64_t blocks;  // Of a head.
  int64_t heads;   // Of all batch rows.
  int64_t tiles;
};

Shape ShapeOf(const AttentionSm90Args& args, int64_t warpgroups) {
  return {CeilDivide(args.queries, warpgroups * kWarpgroupRows), int64_t{args.heads} * args.batch,
          CeilDivide(args.keys, kKeysOfTile)};
}

double TimeOf(const AttentionSm90Args& args, const AttentionSm90Tiling& tiling,
              int multiprocessors) {
  const bool three = tiling.schedule == AttentionSm90Schedule::kThree;
  const Shape shape = ShapeOf(args, three ? 3 : 2);
  const double tile = three ? kTileOfThree : kTileOfTwo;
  const auto time = [tile](int64_t tiles) {
    return tile * (static_cast<double>(tiles) + kTilesToBeginAndEnd);
  };
  const double end = Makespan((shape.blocks - tiling.split_blocks) * shape.heads, time(shape.tiles),
                              tiling.split_blocks * tiling.pieces * shape.heads,
                              time(CeilDivide(shape.tiles, tiling.pieces)), multiprocessors);
  if (tiling.split_blocks == 0) {
    return end;
  }
  const double bytes =
      2.0 * sizeof(float) * static_cast<double>(AttentionSm90WorkspaceFloats(args, tiling));
  return end + kUnitsOfMicrosecond * (kMergeMicroseconds + bytes / kMergeBytesOfMicrosecond);
}

}  // namespace

AttentionSm90Tiling ChooseAttentionSm90Tiling(const AttentionSm90Args& args, int multiprocessors) {
  if (args.keys <= kAttentionSm90FewKeys) {
    return {AttentionSm90Schedule::kFewKeys};
  }
  if (args.key_bias != nullptr) {
    return {AttentionSm90Schedule::kTwo};
  }
  AttentionSm90Tiling best = {AttentionSm90Schedule::kThree};
  double least = TimeOf(args, best, multiprocessors);
  const auto consider = [&](const AttentionSm90Tiling& tiling) {
    const double time = TimeOf(args, tiling, multiprocessors);
    if (time < least) {
      least = time;
      best = tiling;
    }
  };
  consider({AttentionSm90Schedule::kTwoPaired});
  const Shape shape = ShapeOf(args, 3);
  // More than what the last wave has of each head gains nothing.
  const int64_t most_blocks =
      std::min(shape.blocks, CeilDivide(2 * int64_t{multiprocessors}, shape.heads));
  const int64_t most_pieces = std::min<int64_t>(kAttentionSm90MostPieces, shape.tiles);
  for (int blocks = 1; blocks <= most_blocks; ++blocks) {
    for (int pieces = 2; pieces <= most_pieces; ++pieces) {
      consider({AttentionSm90Schedule::kThree, blocks, pieces});
    }
  }
  return best;
}

std::string_view NameOf(AttentionSm90Schedule schedule) {
  switch (schedule) {
    case AttentionSm90Schedule::kTwo:
      return "two";
    case AttentionSm90Schedule::kTwoPaired:
      return "two paired";
    case AttentionSm90Schedule::kFewKeys:
      return "few keys";
    case AttentionSm90Schedule::kThree:
      break;
  }
  return "three";
}

std::string NameOf(const AttentionSm90Tiling& tiling) {
  std::string name(NameOf(tiling.schedule));
  return tiling.split_blocks == 0 ? name
                                  : name + ", " + std::to_string(tiling.split_blocks) + " in " +
                                        std::to_string(tiling.pieces);
}

}  // namespace patchflow
