#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/parallel/run_ranks.h"

namespace patchflow {
namespace {

constexpr int kRounds = 30;

// Writes and reads of the elements are in this file, where the sanitizer sees them.
void Fill(const Tensor& t, float value) { std::fill_n(t.data_ptr<float>(), t.numel(), value); }
bool AllAre(const Tensor& t, float value) {
  const float* data = t.data_ptr<float>();
  return std::all_of(data, data + t.numel(), [value](float x) { return x == value; });
}

class LocalCommunicatorStress : public testing::TestWithParam<LocalTiming> {
 protected:
  void Run(const std::function<void(const Rank&)>& fn) { RunRanks(4, fn, {.timing = GetParam()}); }
};

TEST_P(LocalCommunicatorStress, SumsAndGathersReadEachRoundsValues) {
  Run([](const Rank& rank) {
    const auto all = rank.world.Split(0, "all");
    const Tensor mine = at::zeros({64});
    const Tensor gathered = at::zeros({4, 64});
    for (int round = 0; round < kRounds; ++round) {
      Fill(mine, static_cast<float>(round + rank.index()));
      all->AllGather(mine, gathered).Wait();
      for (int from = 0; from < 4; ++from) {
        ASSERT_TRUE(AllAre(gathered[from], static_cast<float>(round + from)));
      }
      all->AllReduceSum(mine).Wait();
      ASSERT_TRUE(AllAre(mine, static_cast<float>(4 * round + 6)));
    }
  });
}

TEST_P(LocalCommunicatorStress, ARingPassesBlocksOnBesideAnotherCommunicator) {
  Run([](const Rank& rank) {
    const auto ring = rank.world.Split(0, "ring");
    const auto pair = rank.world.Split(rank.index() / 2, "pair");
    Tensor held = at::zeros({64});
    Tensor next = at::zeros({64});
    const Tensor out = at::zeros({2, 32});
    const Tensor in = at::zeros({2, 32});
    Fill(held, static_cast<float>(rank.index()));
    for (int round = 1; round <= kRounds; ++round) {
      Fill(out, static_cast<float>(100 * round + rank.index()));
      Pending hop =
          ring->Grouped({{Communicator::Transfer::Kind::kSend, held, (rank.index() + 1) % 4},
                         {Communicator::Transfer::Kind::kRecv, next, (rank.index() + 3) % 4}});
      pair->AllToAll(out, in).Wait();
      const int first = 100 * round + rank.index() / 2 * 2;  // What the pair's first member sent.
      ASSERT_TRUE(AllAre(in[0], static_cast<float>(first)));
      ASSERT_TRUE(AllAre(in[1], static_cast<float>(first + 1)));
      hop.Wait();
      std::swap(held, next);
      ASSERT_TRUE(AllAre(held, static_cast<float>((rank.index() + 3 * round) % 4)));
    }
  });
}

TEST_P(LocalCommunicatorStress, AnAbortOfOneEndsTheWaitsOfAll) {
  EXPECT_THROW(Run([](const Rank& rank) {
                 const auto all = rank.world.Split(0, "all");
                 const Tensor t = at::zeros({8});
                 for (int round = 0; round < kRounds; ++round) {
                   if (round == 20 && rank.index() == 2) {
                     throw std::runtime_error("out of luck");
                   }
                   all->AllReduceSum(t).Wait();
                 }
               }),
               RankFailure);
}

INSTANTIATE_TEST_SUITE_P(Timings, LocalCommunicatorStress,
                         testing::Values(LocalTiming::kAtIssue, LocalTiming::kAtWait),
                         [](const auto& timing) {
                           return timing.param == LocalTiming::kAtIssue ? "AtIssue" : "AtWait";
                         });

}  // namespace
}  // namespace patchflow
