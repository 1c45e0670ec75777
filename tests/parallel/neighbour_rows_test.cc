#include "parallel/neighbour_rows.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "parallel/vae_decode.h"
#include "tests/parallel/run_ranks.h"

namespace patchflow {
namespace {

using testing::HasSubstr;

void ExpectRowsOfTheWhole(const Rank& rank, const std::vector<RowRange>& shares, int64_t batch,
                          int64_t halo, at::MemoryFormat format) {
  const auto all = rank.world.Split(0, "all");
  const Tensor whole = at::arange(batch * 3 * shares.back().end * 5, at::kFloat)
                           .view({batch, 3, shares.back().end, 5});
  const Tensor padded = at::constant_pad_nd(whole, {0, 0, halo, halo});
  const RowRange own = shares[rank.index()];
  const Tensor held = whole.narrow(2, own.begin, own.size()).contiguous(format).to(rank.device);
  const Tensor found = HaloExchange(*all).WithHalo(held, halo).cpu();
  EXPECT_TRUE(at::equal(found, padded.narrow(2, own.begin, own.size() + 2 * halo)))
      << "rank " << rank.index() << " of " << shares.size();
  EXPECT_TRUE(at::equal(held.cpu(), whole.narrow(2, own.begin, own.size())));
}

class HaloExchangeTest : public testing::TestWithParam<LocalTiming> {};
INSTANTIATE_TEST_SUITE_P(Timing, HaloExchangeTest,
                         testing::Values(LocalTiming::kAtIssue, LocalTiming::kAtWait),
                         [](const auto& info) {
                           return info.param == LocalTiming::kAtIssue ? "AtIssue" : "AtWait";
                         });

TEST_P(HaloExchangeTest, GivesTheRowsOfTheNeighbours) {
  for (const int ranks : {1, 2, 3, 4}) {
    if (ranks > MaxRanks()) continue;
    for (const int64_t rows : {4, 7, 11}) {
      RunRanks(ranks,
               [&](const Rank& rank) {
                 for (const auto format :
                      {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
                   ExpectRowsOfTheWhole(rank, RowShares(rows, ranks), 1, 1, format);
                   ExpectRowsOfTheWhole(rank, RowShares(rows, ranks), 2, 1, format);
                 }
                 ExpectRowsOfTheWhole(rank, RowShares(2 * rows, ranks), 1, 2,
                                      at::MemoryFormat::ChannelsLast);
               },
               {.timing = GetParam()});
    }
  }
}

TEST(HaloExchangeErrors, NamesTheRankWithTooFewRows) {
  try {
    RunRanks(2, [](const Rank& rank) {
      const auto all = rank.world.Split(0, "all");
      HaloExchange(*all).WithHalo(at::zeros({1, 2, 1, 3}, rank.device), 2);
    });
    FAIL() << "exchanged";
  } catch (const RankFailure& failure) {
    EXPECT_THAT(failure.what(), HasSubstr("holds 1 rows and is asked for 2"));
  }
}

}  // namespace
}  // namespace patchflow
