#include "engine/kernels/attention_sm90.h"

namespace patchflow {
namespace {

constexpr int64_t kWarpgroupRows = 64;

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t Waves(const AttentionSm90Args& args, int64_t warpgroups, int multiprocessors) {
  const int64_t blocks =
      CeilDivide(args.queries, warpgroups * kWarpgroupRows) * args.heads * args.batch;
  return CeilDivide(blocks, multiprocessors);
}

}  // namespace

AttentionSm90Schedule ChooseAttentionSm90Schedule(const AttentionSm90Args& args,
                                                  int multiprocessors) {
  // What a wave of blocks takes, in one unit: bench/results/attention_h100.json.
  constexpr int64_t kCostOfTwo = 15;
  constexpr int64_t kCostOfThree = 18;
  if (args.key_bias != nullptr) {
    return AttentionSm90Schedule::kTwo;
  }
  return Waves(args, 3, multiprocessors) * kCostOfThree <=
                 Waves(args, 2, multiprocessors) * kCostOfTwo
             ? AttentionSm90Schedule::kThree
             : AttentionSm90Schedule::kTwoPaired;
}

std::string_view NameOf(AttentionSm90Schedule schedule) {
  switch (schedule) {
    case AttentionSm90Schedule::kTwo:
      return "two";
    case AttentionSm90Schedule::kTwoPaired:
      return "two paired";
    case AttentionSm90Schedule::kThree:
      break;
  }
  return "three";
}

}  // namespace patchflow
