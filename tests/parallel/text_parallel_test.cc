// The text encoder of a group as GroupRank's ports have it: split over all ranks, or whole on each.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "engine/text/text_encoder.h"
#include "parallel/counting_communicator.h"
#include "parallel/group.h"
#include "tests/engine/golden.h"
#include "tests/parallel/run_layout.h"

namespace patchflow {
namespace {

constexpr double kReordered = 1e-5;  // Features are summed over ranks.
constexpr int64_t kFloatBytes = 4;

// `odd`: 5 heads of 5, a width of 16 and a feed-forward of 28.
struct Encoder {
  const char* name;
  const char* dir;
  int num_blocks;
};
constexpr Encoder kEncoders[] = {{"odd", "tests/golden/t5/odd", 3},
                                 {"bundled", "models/shapes-256/text_encoder", 4}};

std::unique_ptr<TextEncoder> Load(const Encoder& encoder, const ReadOptions& options) {
  auto loaded = LoadTextEncoder(encoder.dir, options);
  if (!loaded.ok()) {
    throw std::runtime_error(loaded.status().ToString());
  }
  return *std::move(loaded);
}

class TextParallel : public testing::TestWithParam<std::tuple<Encoder, const char*>> {};
INSTANTIATE_TEST_SUITE_P(Layouts, TextParallel,
                         testing::Combine(testing::ValuesIn(kEncoders),
                                          testing::Values("tensor=2,shared_text=1",
                                                          "ring=3,shared_text=1",
                                                          "pipefusion=2,ulysses=2,shared_text=1")));

TEST_P(TextParallel, EqualsOneRankWhateverTheLayout) {
  const auto& [encoder, text] = GetParam();
  const Layout layout = ParseLayout(text).value();
  if (layout.ranks() > MaxRanks()) {
    GTEST_SKIP() << "needs " << layout.ranks() << " GPUs";
  }
  const GoldenFile golden("t5/outputs.safetensors");
  const Tensor ids_BL = golden.Get(std::string(encoder.name) + ".ids");
  const Tensor mask_BL = golden.Get(std::string(encoder.name) + ".mask");
  Tensor expected;
  int64_t whole_bytes = 0;
  RunRanks(1, [&](const Rank& rank) {
    const auto whole = Load(encoder, {.device = rank.device});
    LocalSum sum;
    expected = whole->Encode(ids_BL.to(rank.device), mask_BL.to(rank.device), sum).cpu();
    whole_bytes = whole->parameter_bytes();
  });
  TransformerConfig model;
  model.num_blocks = model.num_heads = 8;
  RunRanks(layout.ranks(), [&](const Rank& rank) {
    CountingWorld world(rank.world);
    const GroupRank member(layout, world, model);
    const EnginePorts ports = member.ports();
    const auto shard = Load(encoder, {.device = rank.device, .shard = ports.text_shard});
    const Tensor found =
        shard->Encode(ids_BL.to(rank.device), mask_BL.to(rank.device), *ports.text_sum).cpu();
    EXPECT_LE(RelativeError(found, expected), kReordered);
    EXPECT_LT(shard->parameter_bytes(), whole_bytes);
    // Of attention and of feed-forward: 2 (n - 1) / n of the hidden state each.
    const int64_t n = layout.ranks();
    const int64_t hidden_bytes = ids_BL.numel() * shard->width() * kFloatBytes;
    EXPECT_EQ(world.Of("world").calls, 2 * encoder.num_blocks);
    EXPECT_EQ(world.Of("world").bytes, 2 * encoder.num_blocks * (2 * (n - 1) * hidden_bytes / n));
  });
}

TEST(TextPlacementTest, RanksThatShareNoTextEncoderHaveAllOfItAndSendNothing) {
  if (MaxRanks() < 2) {
    GTEST_SKIP() << "needs 2 GPUs";
  }
  TransformerConfig model;
  model.num_blocks = model.num_heads = 8;
  RunRanks(2, [&](const Rank& rank) {
    const GroupRank member(ParseLayout("tensor=2").value(), rank.world, model);
    EXPECT_EQ(member.ports().text_shard.count, 1);
    EXPECT_EQ(member.ports().text_sum, nullptr);
  });
}

}  // namespace
}  // namespace patchflow
