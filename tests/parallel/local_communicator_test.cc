#include "parallel/local_communicator.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "tests/parallel/run_ranks.h"

namespace patchflow {
namespace {

using testing::HasSubstr;
using Transfer = Communicator::Transfer;
constexpr auto kSend = Transfer::Kind::kSend;
constexpr auto kRecv = Transfer::Kind::kRecv;

// Rank r's element i, distinct for all.
Tensor Numbers(int rank, int64_t count) { return at::arange(count, at::kFloat) + 1000.0 * rank; }

std::string FailureOf(int ranks, const std::function<void(const Rank&)>& fn,
                      const RunOptions& options = {}) {
  try {
    RunRanks(ranks, fn, options);
  } catch (const RankFailure& failure) {
    return failure.what();
  }
  return "";
}

class LocalCommunicatorTest : public testing::TestWithParam<std::tuple<int, LocalTiming>> {
 protected:
  int ranks() const { return std::get<0>(GetParam()); }
  void Run(const std::function<void(Communicator&)>& fn) {
    RunRanks(ranks(), [&fn](const Rank& rank) { fn(*rank.world.Split(0, "all")); },
             {.timing = std::get<1>(GetParam())});
  }
};
INSTANTIATE_TEST_SUITE_P(Ranks, LocalCommunicatorTest,
                         testing::Combine(testing::Values(1, 2, 3, 4, 8),
                                          testing::Values(LocalTiming::kAtIssue,
                                                          LocalTiming::kAtWait)),
                         [](const auto& info) {
                           return std::to_string(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) == LocalTiming::kAtIssue ? "AtIssue"
                                                                                    : "AtWait");
                         });

TEST_P(LocalCommunicatorTest, AllReduceSumsOverRanks) {
  Run([](Communicator& all) {
    const Tensor t = Numbers(all.rank(), 5);
    all.AllReduceSum(t).Wait();
    Tensor expected = at::zeros({5});
    for (int rank = 0; rank < all.size(); ++rank) {
      expected += Numbers(rank, 5);
    }
    EXPECT_TRUE(at::equal(t, expected));
  });
}

TEST_P(LocalCommunicatorTest, AllReduceAddsHalfTypesInFloat) {
  Run([](Communicator& all) {
    const Tensor t = at::full({3}, 1.0 + all.rank() / 128.0, at::kBFloat16);
    all.AllReduceSum(t).Wait();
    double sum = 0;
    for (int rank = 0; rank < all.size(); ++rank) {
      sum += 1.0 + rank / 128.0;
    }
    EXPECT_TRUE(at::equal(t, at::full({3}, sum, at::kBFloat16)));
  });
}

TEST_P(LocalCommunicatorTest, AllGatherStacksRanks) {
  Run([](Communicator& all) {
    const Tensor out = at::empty({all.size(), 2, 3});
    all.AllGather(Numbers(all.rank(), 6).view({2, 3}), out).Wait();
    for (int rank = 0; rank < all.size(); ++rank) {
      EXPECT_TRUE(at::equal(out[rank], Numbers(rank, 6).view({2, 3})));
    }
  });
}

TEST_P(LocalCommunicatorTest, AllToAllTransposesRanksAndParts) {
  Run([](Communicator& all) {
    const Tensor out = at::empty({all.size(), 4});
    all.AllToAll(Numbers(all.rank(), 4 * all.size()).view({all.size(), 4}), out).Wait();
    for (int rank = 0; rank < all.size(); ++rank) {
      EXPECT_TRUE(at::equal(out[rank], Numbers(rank, 4 * all.size()).view({-1, 4})[all.rank()]));
    }
  });
}

TEST_P(LocalCommunicatorTest, SendsAlongAChain) {
  Run([](Communicator& all) {
    const Tensor t = Numbers(all.rank(), 7);
    if (all.rank() > 0) {
      all.Recv(t, all.rank() - 1).Wait();
    }
    if (all.rank() + 1 < all.size()) {
      all.Send(t, all.rank() + 1).Wait();
    }
    EXPECT_TRUE(at::equal(t, Numbers(0, 7)));
  });
}

TEST_P(LocalCommunicatorTest, GroupedTransfersProgressInAnyOrder) {
  Run([](Communicator& all) {
    const Tensor own = Numbers(all.rank(), 3);
    std::vector<Transfer> transfers;
    std::vector<Tensor> received(all.size());
    for (int i = 1; i < all.size(); ++i) {
      const int peer = (all.rank() + i) % all.size();
      received[peer] = at::empty({3});
      transfers.push_back({kSend, own, peer});
      transfers.insert(transfers.begin(), {kRecv, received[peer], peer});
    }
    all.Grouped(transfers).Wait();
    for (int peer = 0; peer < all.size(); ++peer) {
      EXPECT_TRUE(peer == all.rank() || at::equal(received[peer], Numbers(peer, 3)));
    }
  });
}

TEST_P(LocalCommunicatorTest, OperationsOfOneCommunicatorRunInOrder) {
  Run([](Communicator& all) {
    const Tensor t = Numbers(all.rank(), 1);
    const Tensor out = at::empty({all.size(), 1});
    Pending sum = all.AllReduceSum(t);
    Pending gather = all.AllGather(t, out);
    gather.Wait();
    sum.Wait();
    const double expected = 1000.0 * all.size() * (all.size() - 1) / 2;
    EXPECT_TRUE(at::equal(out, at::full({all.size(), 1}, expected)));
  });
}

TEST_P(LocalCommunicatorTest, CommunicatorsProgressSideBySide) {
  RunRanks(ranks(),
           [](const Rank& rank) {
             const auto one = rank.world.Split(0, "one");
             const auto two = rank.world.Split(0, "two");
             const Tensor a = Numbers(rank.index(), 4);
             const Tensor b = Numbers(rank.index(), 4);
             Pending first = one->AllReduceSum(a);
             Pending second = two->AllReduceSum(b);
             if (rank.index() % 2 == 0) {
               second.Wait();
               first.Wait();
             } else {
               first.Wait();
               second.Wait();
             }
             EXPECT_TRUE(at::equal(a, b));
           },
           {.timing = std::get<1>(GetParam())});
}

TEST_P(LocalCommunicatorTest, SplitsByColorInOrderOfRank) {
  RunRanks(ranks(), [this](const Rank& rank) {
    const auto parity = rank.world.Split(rank.index() % 2, "parity");
    EXPECT_EQ(parity->rank(), rank.index() / 2);
    EXPECT_EQ(parity->size(), (ranks() + 1 - rank.index() % 2) / 2);
    const auto first = rank.world.Split(rank.index() == 0 ? 0 : -1, "first");
    EXPECT_EQ(first != nullptr, rank.index() == 0);
    const Tensor t = at::full({1}, rank.index());
    parity->AllReduceSum(t.to(at::kFloat)).Wait();
  });
}

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

TEST(LocalCommunicatorStreams, TransfersBothWaysInTwoCommunicators) {
  RunRanks(2, [](const Rank& rank) {
    const auto there = rank.world.Split(0, "there");
    const auto back = rank.world.Split(0, "back");
    const int peer = 1 - rank.index();
    const Tensor in = at::empty({2});
    const Tensor out = Numbers(rank.index(), 2);
    Pending send = (rank.index() == 0 ? there : back)->Send(out, peer);
    Pending receive = (rank.index() == 0 ? back : there)->Recv(in, peer);
    receive.Wait();
    send.Wait();
    EXPECT_TRUE(at::equal(in, Numbers(peer, 2)));
  });
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
              HasSubstr("bytes meets"));
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
