#include "parallel/local_communicator.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "tests/parallel/failure_of.h"

namespace patchflow {
namespace {

using testing::HasSubstr;

TEST(LocalCommunicatorStreams, ReadsTheInputWhenTheOperationRuns) {
  RunRanks(
      2,
      [](const Rank& rank) {
        const auto edge = rank.world.Split(0, "edge");
        const auto done = rank.world.Split(0, "done");
        const Tensor t = at::zeros({1});
        if (rank.index() == 0) {
          Pending send = edge->Send(t, 1);
          t.fill_(7);  // Too early: legal streams may carry either value. This timing carries 7.
          done->AllReduceSum(at::zeros({1})).Wait();
          send.Wait();
        } else {
          Pending receive = edge->Recv(t, 0);
          done->AllReduceSum(at::zeros({1})).Wait();
          receive.Wait();
          EXPECT_EQ(t.item<float>(), 7);
        }
      },
      {.timing = LocalTiming::kAtWait});
}

TEST(LocalCommunicatorFaults, ReportsOpposingSendsAsAStall) {
  const std::string failure = FailureOf(2,
                                        [](const Rank& rank) {
                                          const auto edge = rank.world.Split(0, "edge");
                                          const Tensor t = at::zeros({1});
                                          Pending send = edge->Send(t, 1 - rank.index());
                                          Pending receive =
                                              edge->Recv(at::zeros({1}), 1 - rank.index());
                                          receive.Wait();
                                          send.Wait();
                                        },
                                        {.wait_timeout = absl::Milliseconds(200)});
  EXPECT_THAT(failure, HasSubstr("edge communicator"));
  EXPECT_THAT(failure, HasSubstr("recv #1 waited 200ms"));
  EXPECT_THAT(failure, HasSubstr("before it comes send #0"));
}

TEST(LocalCommunicatorFaults, AMissingPeerEndsTheWait) {
  const std::string failure = FailureOf(3,
                                        [](const Rank& rank) {
                                          const auto all = rank.world.Split(0, "all");
                                          if (rank.index() != 2) {
                                            all->AllReduceSum(at::zeros({1})).Wait();
                                          }
                                        },
                                        {.wait_timeout = absl::Milliseconds(200)});
  EXPECT_THAT(failure, HasSubstr("rank 2 has issued nothing more"));
}

TEST(LocalCommunicatorFaults, AMissingPeerEndsASplit) {
  EXPECT_THAT(FailureOf(2,
                        [](const Rank& rank) {
                          if (rank.index() == 0) {
                            rank.world.Split(0, "all");
                          }
                        },
                        {.wait_timeout = absl::Milliseconds(200)}),
              HasSubstr("waited 200ms for 1 ranks to split off 'all'"));
}

TEST(LocalCommunicatorFaults, SplitsInDifferentOrderAreRefused) {
  EXPECT_THAT(
      FailureOf(
          2, [](const Rank& rank) { rank.world.Split(0, rank.index() == 0 ? "ring" : "tensor"); }),
      HasSubstr("where another splits"));
}

TEST(LocalCommunicatorFaults, AThrowOnOneRankEndsAllWithItsMessage) {
  std::atomic<int> unblocked = 0;
  const std::string failure = FailureOf(4, [&unblocked](const Rank& rank) {
    const auto all = rank.world.Split(0, "all");
    if (rank.index() == 3) {
      throw std::runtime_error("out of luck");
    }
    try {
      all->AllReduceSum(at::zeros({1})).Wait();
    } catch (const CommunicatorError& error) {
      EXPECT_THAT(error.what(), HasSubstr("out of luck"));
      ++unblocked;
    }
  });
  EXPECT_EQ(failure, "rank 3: out of luck");
  EXPECT_EQ(unblocked, 3);
}

TEST(LocalCommunicatorFaults, AnAbortedCommunicatorRefusesTheNextCall) {
  EXPECT_THAT(FailureOf(1,
                        [](const Rank& rank) {
                          const auto all = rank.world.Split(0, "all");
                          all->Abort("enough");
                          all->AllReduceSum(at::zeros({1})).Wait();
                        }),
              HasSubstr("all communicator was aborted: enough"));
}

TEST(LocalCommunicatorFaults, DifferentCollectivesAreRefused) {
  EXPECT_THAT(FailureOf(2,
                        [](const Rank& rank) {
                          const auto all = rank.world.Split(0, "all");
                          all->AllReduceSum(at::zeros({1 + rank.index()})).Wait();
                        }),
              HasSubstr("all_reduce_sum of"));
}

TEST(LocalCommunicatorFaults, TransfersOfDifferentSizesAreRefused) {
  EXPECT_THAT(FailureOf(2,
                        [](const Rank& rank) {
                          const auto edge = rank.world.Split(0, "edge");
                          const Tensor t = at::zeros({1 + rank.index()});
                          (rank.index() == 0 ? edge->Send(t, 1) : edge->Recv(t, 0)).Wait();
                        }),
              HasSubstr("bytes with one of"));
}

TEST(LocalCommunicatorFaults, WrongTensorsAreRefused) {
  RunRanks(2, [](const Rank& rank) {
    const auto all = rank.world.Split(0, "all");
    const Tensor t = at::zeros({2, 3});
    EXPECT_THROW(all->AllReduceSum(t.t()).Wait(), c10::Error);
    EXPECT_THROW(all->AllReduceSum(t.to(at::kLong)).Wait(), c10::Error);
    EXPECT_THROW(all->AllGather(t, at::zeros({3, 2, 3})).Wait(), c10::Error);
    EXPECT_THROW(all->AllToAll(at::zeros({3, 2}), at::zeros({3, 2})).Wait(), c10::Error);
    EXPECT_THROW(all->Send(t, rank.index()).Wait(), c10::Error);
  });
}

TEST(LocalCommunicatorFaults, AnOperationNeverWaitedForIsReported) {
  EXPECT_THAT(FailureOf(2,
                        [](const Rank& rank) {
                          const auto all = rank.world.Split(0, "all");
                          const Pending forgotten = all->AllReduceSum(at::zeros({1}));
                        }),
              HasSubstr("never waited for: all communicator, rank"));
}

}  // namespace
}  // namespace patchflow
