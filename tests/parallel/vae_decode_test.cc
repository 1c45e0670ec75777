#include "parallel/vae_decode.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>
#include <mutex>

#include "engine/denoiser.h"
#include "tests/engine/vae/vae_testing.h"
#include "tests/parallel/run_ranks.h"

namespace patchflow {
namespace {

// Of float32 sums in another order: on CPUs the largest difference seen is a tenth of it.
constexpr double kExact = 1e-4;

std::unique_ptr<VaeDecoder> LoadOn(const Rank& rank, const std::string& variant,
                                   VaeOptions options = {}) {
  options.read.device = rank.device;
  // What is compared is exact.
  if (rank.device.is_cuda()) at::globalContext().setAllowTF32CuDNN(false);
  return LoadDecoder(variant, options);
}

// The pixels of rank 0, on the host.
Tensor DecodedBy(int ranks, const std::string& variant, const Tensor& latents,
                 const VaeOptions& options = {}, LocalTiming timing = LocalTiming::kAtIssue) {
  Tensor pixels;
  RunRanks(ranks,
           [&](const Rank& rank) {
             const auto all = rank.world.Split(0, "all");
             const auto decoder = LoadOn(rank, variant, options);
             const Tensor found = DecodeTogether(*all, *decoder, latents.to(rank.device), {});
             EXPECT_EQ(found.defined(), rank.index() == 0);
             if (found.defined()) pixels = found.cpu();
           },
           {.timing = timing});
  return pixels;
}

Tensor LatentsOf(const std::string& variant, int64_t batch, int64_t rows, int64_t columns) {
  at::manual_seed(11);
  return at::randn({batch, LoadDecoder(variant)->config().latent_channels, rows, columns});
}

class DecodeTogetherTest : public testing::TestWithParam<std::tuple<std::string, int>> {
 protected:
  void SetUp() override {
    if (ranks() > MaxRanks()) GTEST_SKIP() << "needs " << ranks() << " devices";
  }
  std::string variant() const { return std::get<0>(GetParam()); }
  int ranks() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Variants, DecodeTogetherTest,
                         testing::Combine(testing::Values("tiny", "narrowing", "widening", "flux",
                                                          "no_attention", "bundled"),
                                          testing::Values(1, 2, 3, 4)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" +
                                  std::to_string(std::get<1>(info.param));
                         });

TEST_P(DecodeTogetherTest, PixelsEqualThoseOfDiffusers) {
  const GoldenFile golden = ExpectedVae();
  const Tensor expected = golden.Get(variant() + ".pixels");
  for (const LocalTiming timing : {LocalTiming::kAtIssue, LocalTiming::kAtWait}) {
    const Tensor pixels =
        DecodedBy(ranks(), variant(), golden.Get(variant() + ".latents"), {}, timing);
    EXPECT_LT(RelativeDifference(pixels, expected), kExact);
  }
}

TEST_P(DecodeTogetherTest, RowsNeedNotDivide) {
  for (const int64_t rows : {ranks(), ranks() + 1, 2 * ranks() - 1, 13}) {
    const Tensor latents = LatentsOf(variant(), 1, rows, 5);
    const Tensor whole = DecodeWhole(*LoadDecoder(variant()), latents, {});
    const Tensor pixels = DecodedBy(ranks(), variant(), latents);
    EXPECT_LT(RelativeDifference(pixels, whole), kExact) << rows << " rows";
  }
}

TEST(DecodeTogetherShapes, SlabsOfEachRankMayDiffer) {
  const Tensor latents = LatentsOf("tiny", 1, 9, 5);
  const Tensor whole = DecodeWhole(*LoadDecoder("tiny"), latents, {});
  for (const int64_t workspace_bytes : {20'000, 27'000, 40'000}) {
    VaeOptions options;
    options.workspace_bytes = workspace_bytes;
    EXPECT_LT(RelativeDifference(DecodedBy(2, "tiny", latents, options), whole), kExact)
        << workspace_bytes;
  }
}

TEST(DecodeTogetherShapes, DecodesEachImageOfABatch) {
  const Tensor latents = LatentsOf("tiny", 3, 5, 4);
  const Tensor whole = DecodeWhole(*LoadDecoder("tiny"), latents, {});
  EXPECT_LT(RelativeDifference(DecodedBy(2, "tiny", latents), whole), kExact);
}

TEST(DecodeTogetherShapes, FewerRowsThanRanksAreDecodedByRankZero) {
  const int ranks = MaxRanks();
  for (int64_t rows = 1; rows < ranks; ++rows) {
    const Tensor latents = LatentsOf("tiny", 1, rows, 7);
    const Tensor whole = DecodeWhole(*LoadDecoder("tiny"), latents, {});
    EXPECT_LT(RelativeDifference(DecodedBy(ranks, "tiny", latents), whole), kExact);
  }
}

TEST(RowSharesTest, CoverTheImageEvenly) {
  for (int64_t rows = 1; rows < 40; ++rows) {
    for (int ranks = 1; ranks <= 9; ++ranks) {
      int64_t next = 0;
      for (const RowRange& share : RowShares(rows, ranks)) {
        EXPECT_EQ(share.begin, next);
        EXPECT_LE(share.size(), rows / ranks + 1);
        EXPECT_GE(share.size(), rows / ranks);
        next = share.end;
      }
      EXPECT_EQ(next, rows);
    }
  }
}

// What the ranks of a process share of a request that is to stop: all before the first step that
// none has begun.
class Agreement {
 public:
  bool Continue(int step, bool stop_wanted) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stop_wanted && stop_at_ > begun_ + 1) stop_at_ = begun_ + 1;
    if (step < stop_at_ && step > begun_) begun_ = step;
    return step < stop_at_;
  }

 private:
  std::mutex mutex_;
  int begun_ = -1;
  int stop_at_ = std::numeric_limits<int>::max();
};

// Shares and slabs of these ranks differ, and so would their numbers of tiles.
constexpr int kUneven = 3;
const VaeOptions kSmallSlabs{.read = {}, .workspace_bytes = 20'000};

TEST(DecodeTogetherCancel, AsksAllRanksEquallyOften) {
  const Tensor latents = LatentsOf("tiny", 1, 7, 5);
  const int ranks = std::min(kUneven, MaxRanks());
  std::vector<int> asked(ranks);
  RunRanks(ranks, [&](const Rank& rank) {
    const auto all = rank.world.Split(0, "all");
    DecodeTogether(*all, *LoadOn(rank, "tiny", kSmallSlabs), latents.to(rank.device),
                   [&] { ++asked[rank.index()]; });
  });
  for (const int times : asked) EXPECT_EQ(times, asked.front());
  EXPECT_GT(asked.front(), 10);
}

TEST(DecodeTogetherCancel, StopsAllRanksAtOnePlaceAndLeavesTheGroupUsable) {
  const Tensor latents = LatentsOf("tiny", 1, 7, 5);
  const Tensor whole = DecodeWhole(*LoadDecoder("tiny"), latents, {});
  const int ranks = std::min(kUneven, MaxRanks());
  for (const int at : {0, 1, 4, 9}) {
    Agreement agreement;
    std::vector<int> stopped(ranks, -1);
    Tensor again;
    RunRanks(ranks, [&](const Rank& rank) {
      const auto all = rank.world.Split(0, "all");
      const auto decoder = LoadOn(rank, "tiny", kSmallSlabs);
      const Tensor here = latents.to(rank.device);
      int step = 0;
      const auto tile_done = [&] {
        const bool wanted = rank.index() == 1 && step >= at;  // Only one rank hears of it.
        if (!agreement.Continue(step, wanted)) {
          stopped[rank.index()] = step;
          throw Cancelled();
        }
        ++step;
      };
      EXPECT_THROW(DecodeTogether(*all, *decoder, here, tile_done), Cancelled);
      const Tensor pixels = DecodeTogether(*all, *decoder, here, {});
      if (pixels.defined()) again = pixels.cpu();
    });
    for (const int step : stopped) EXPECT_EQ(step, stopped.front());
    EXPECT_GE(stopped.front(), at);
    EXPECT_LT(RelativeDifference(again, whole), kExact);
  }
}

}  // namespace
}  // namespace patchflow
