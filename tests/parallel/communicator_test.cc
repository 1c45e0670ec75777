// What every implementation does alike: over host memory, and over NCCL with a GPU for each rank.
#include "parallel/communicator.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <algorithm>

#include "tests/parallel/run_ranks.h"

namespace patchflow {
namespace {

using Transfer = Communicator::Transfer;
constexpr auto kSend = Transfer::Kind::kSend;
constexpr auto kRecv = Transfer::Kind::kRecv;

// Rank r's element i, distinct for all.
Tensor Numbers(const Rank& here, int rank, int64_t count) {
  return at::arange(count, at::TensorOptions(here.device)) + 1000.0 * rank;
}

Tensor Filled(const Rank& here, at::IntArrayRef sizes, double value = -1) {
  return at::full(sizes, value, at::TensorOptions(here.device));
}

std::vector<int> RanksThatFit() {
  std::vector<int> ranks = {1, 2, 3, 4, 8};
  std::erase_if(ranks, [](int n) { return n > MaxRanks(); });
  return ranks;
}

// NCCL has its own.
std::vector<LocalTiming> Timings() {
  return RanksAreGpus() ? std::vector{LocalTiming::kAtIssue}
                        : std::vector{LocalTiming::kAtIssue, LocalTiming::kAtWait};
}

class CommunicatorTest : public testing::TestWithParam<std::tuple<int, LocalTiming>> {
 protected:
  int ranks() const { return std::get<0>(GetParam()); }
  void Run(const std::function<void(const Rank&, Communicator&)>& fn) {
    RunRanks(ranks(), [&fn](const Rank& rank) { fn(rank, *rank.world.Split(0, "all")); },
             {.timing = std::get<1>(GetParam())});
  }
};
INSTANTIATE_TEST_SUITE_P(Ranks, CommunicatorTest,
                         testing::Combine(testing::ValuesIn(RanksThatFit()),
                                          testing::ValuesIn(Timings())),
                         [](const auto& info) {
                           return std::to_string(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) == LocalTiming::kAtIssue ? "AtIssue"
                                                                                    : "AtWait");
                         });

TEST_P(CommunicatorTest, AllReduceSumsOverRanks) {
  Run([](const Rank& here, Communicator& all) {
    const Tensor t = Numbers(here, all.rank(), 5);
    all.AllReduceSum(t).Wait();
    Tensor expected = Filled(here, {5}, 0);
    for (int rank = 0; rank < all.size(); ++rank) {
      expected += Numbers(here, rank, 5);
    }
    EXPECT_TRUE(at::equal(t, expected));
  });
}

TEST_P(CommunicatorTest, AllReduceAddsHalfTypesInFloat) {
  Run([](const Rank& here, Communicator& all) {
    const Tensor t = Filled(here, {3}, 1.0 + all.rank() / 128.0).to(at::kBFloat16);
    all.AllReduceSum(t).Wait();
    double sum = 0;
    for (int rank = 0; rank < all.size(); ++rank) {
      sum += 1.0 + rank / 128.0;
    }
    EXPECT_TRUE(at::equal(t, Filled(here, {3}, sum).to(at::kBFloat16)));
  });
}

TEST_P(CommunicatorTest, AllGatherStacksRanks) {
  Run([](const Rank& here, Communicator& all) {
    const Tensor out = Filled(here, {all.size(), 2, 3});
    all.AllGather(Numbers(here, all.rank(), 6).view({2, 3}), out).Wait();
    for (int rank = 0; rank < all.size(); ++rank) {
      EXPECT_TRUE(at::equal(out[rank], Numbers(here, rank, 6).view({2, 3})));
    }
  });
}

TEST_P(CommunicatorTest, AllToAllTransposesRanksAndParts) {
  Run([](const Rank& here, Communicator& all) {
    const Tensor out = Filled(here, {all.size(), 4});
    all.AllToAll(Numbers(here, all.rank(), 4 * all.size()).view({all.size(), 4}), out).Wait();
    for (int rank = 0; rank < all.size(); ++rank) {
      EXPECT_TRUE(
          at::equal(out[rank], Numbers(here, rank, 4 * all.size()).view({-1, 4})[all.rank()]));
    }
  });
}

TEST_P(CommunicatorTest, SendsAlongAChain) {
  Run([](const Rank& here, Communicator& all) {
    const Tensor t = Numbers(here, all.rank(), 7);
    if (all.rank() > 0) {
      all.Recv(t, all.rank() - 1).Wait();
    }
    if (all.rank() + 1 < all.size()) {
      all.Send(t, all.rank() + 1).Wait();
    }
    EXPECT_TRUE(at::equal(t, Numbers(here, 0, 7)));
  });
}

TEST_P(CommunicatorTest, GroupedTransfersProgressInAnyOrder) {
  Run([](const Rank& here, Communicator& all) {
    const Tensor own = Numbers(here, all.rank(), 3);
    std::vector<Transfer> transfers;
    std::vector<Tensor> received(all.size());
    for (int i = 1; i < all.size(); ++i) {
      const int peer = (all.rank() + i) % all.size();
      received[peer] = Filled(here, {3});
      transfers.push_back({kSend, own, peer});
      transfers.insert(transfers.begin(), {kRecv, received[peer], peer});
    }
    all.Grouped(transfers).Wait();
    for (int peer = 0; peer < all.size(); ++peer) {
      EXPECT_TRUE(peer == all.rank() || at::equal(received[peer], Numbers(here, peer, 3)));
    }
  });
}

TEST_P(CommunicatorTest, OperationsOfOneCommunicatorRunInOrder) {
  Run([](const Rank& here, Communicator& all) {
    const Tensor t = Numbers(here, all.rank(), 1);
    const Tensor out = Filled(here, {all.size(), 1});
    Pending sum = all.AllReduceSum(t);
    Pending gather = all.AllGather(t, out);
    gather.Wait();
    sum.Wait();
    const double expected = 1000.0 * all.size() * (all.size() - 1) / 2;
    EXPECT_TRUE(at::equal(out, Filled(here, {all.size(), 1}, expected)));
  });
}

TEST_P(CommunicatorTest, CommunicatorsProgressSideBySide) {
  RunRanks(ranks(),
           [](const Rank& here) {
             const auto one = here.world.Split(0, "one");
             const auto two = here.world.Split(0, "two");
             const Tensor a = Numbers(here, here.index(), 4);
             const Tensor b = Numbers(here, here.index(), 4);
             Pending first = one->AllReduceSum(a);
             Pending second = two->AllReduceSum(b);
             if (here.index() % 2 == 0) {
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

TEST_P(CommunicatorTest, SplitsByColorInOrderOfRank) {
  RunRanks(ranks(), [this](const Rank& here) {
    const auto parity = here.world.Split(here.index() % 2, "parity");
    EXPECT_EQ(parity->rank(), here.index() / 2);
    EXPECT_EQ(parity->size(), (ranks() + 1 - here.index() % 2) / 2);
    const auto first = here.world.Split(here.index() == 0 ? 0 : -1, "first");
    EXPECT_EQ(first != nullptr, here.index() == 0);
    const Tensor sum = Filled(here, {1}, here.index());
    parity->AllReduceSum(sum).Wait();
    double expected = 0;
    for (int rank = here.index() % 2; rank < ranks(); rank += 2) {
      expected += rank;
    }
    EXPECT_EQ(sum.item<float>(), expected);
  });
}

// NCCL carries bytes as they are.
TEST(CommunicatorPair, MovesEveryType) {
  RunRanks(2, [](const Rank& here) {
    const auto pair = here.world.Split(0, "pair");
    for (const at::ScalarType type :
         {at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kByte, at::kBool}) {
      const Tensor own = Numbers(here, here.index(), 5).remainder(7).to(type);
      const Tensor all = Filled(here, {2, 5}, 9).to(type);
      pair->AllGather(own, all).Wait();
      for (int rank = 0; rank < 2; ++rank) {
        EXPECT_TRUE(at::equal(all[rank], Numbers(here, rank, 5).remainder(7).to(type))) << type;
      }
    }
  });
}

TEST(CommunicatorPair, EmptyTensorsTravelToo) {
  RunRanks(2, [](const Rank& here) {
    const auto pair = here.world.Split(0, "pair");
    const int peer = 1 - here.index();
    const Tensor none = Filled(here, {0});
    pair->AllReduceSum(none).Wait();
    pair->AllGather(none, Filled(here, {2, 0})).Wait();
    pair->AllToAll(Filled(here, {2, 0}), Filled(here, {2, 0})).Wait();
    const Tensor in = Filled(here, {3});
    pair->Grouped({{kSend, none, peer},
                   {kSend, Numbers(here, here.index(), 3), peer},
                   {kRecv, Filled(here, {0}), peer},
                   {kRecv, in, peer}})
        .Wait();
    EXPECT_TRUE(at::equal(in, Numbers(here, peer, 3)));
  });
}

TEST(CommunicatorPair, TransfersBothWaysInTwoCommunicators) {
  RunRanks(2, [](const Rank& here) {
    const auto there = here.world.Split(0, "there");
    const auto back = here.world.Split(0, "back");
    const int peer = 1 - here.index();
    const Tensor in = Filled(here, {2});
    const Tensor out = Numbers(here, here.index(), 2);
    Pending send = (here.index() == 0 ? there : back)->Send(out, peer);
    Pending receive = (here.index() == 0 ? back : there)->Recv(in, peer);
    receive.Wait();
    send.Wait();
    EXPECT_TRUE(at::equal(in, Numbers(here, peer, 2)));
  });
}

}  // namespace
}  // namespace patchflow
