#include "parallel/counting_communicator.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <chrono>
#include <thread>

#include "tests/parallel/run_ranks.h"

namespace patchflow {
namespace {

using Transfer = Communicator::Transfer;

void ExpectCount(Traffic::Count count, int64_t calls, int64_t bytes) {
  EXPECT_EQ(count.calls, calls);
  EXPECT_EQ(count.bytes, bytes);
}

TEST(CountingCommunicatorTest, CountsWhatARankSends) {
  RunRanks(4, [](const Rank& rank) {
    CountingWorld world(rank.world);
    const auto all = world.Split(0, "all");
    EXPECT_EQ(all->rank(), rank.index());
    EXPECT_EQ(all->size(), 4);
    all->AllReduceSum(at::zeros({8})).Wait();
    all->AllGather(at::zeros({2}), at::zeros({4, 2})).Wait();
    all->AllToAll(at::zeros({4, 3}), at::zeros({4, 3})).Wait();
    ExpectCount(world.Of("all", Operation::kAllReduceSum), 1, 2 * 3 * 32 / 4);
    ExpectCount(world.Of("all", Operation::kAllGather), 1, 3 * 8);
    ExpectCount(world.Of("all", Operation::kAllToAll), 1, 3 * 48 / 4);
    ExpectCount(world.Of("all"), 3, 48 + 24 + 36);
  });
}

TEST(CountingCommunicatorTest, CountsSendsAndNotReceives) {
  RunRanks(2, [](const Rank& rank) {
    CountingWorld world(rank.world);
    const auto edge = world.Split(0, "edge");
    const auto both = world.Split(0, "both");
    const Tensor t = at::zeros({5});
    (rank.index() == 0 ? edge->Send(t, 1) : edge->Recv(t, 0)).Wait();
    const int peer = 1 - rank.index();
    both->Grouped({{Transfer::Kind::kSend, at::zeros({3}), peer},
                   {Transfer::Kind::kRecv, at::zeros({3}), peer}})
        .Wait();
    ExpectCount(world.Of("edge"), rank.index() == 0 ? 1 : 0, rank.index() == 0 ? 20 : 0);
    ExpectCount(world.Of("both", Operation::kSend), 1, 12);
    ExpectCount(world.Total(), rank.index() == 0 ? 2 : 1, rank.index() == 0 ? 32 : 12);
  });
}

TEST(CountingCommunicatorTest, TimesWhatARankWaits) {
  using std::chrono::milliseconds;
  RunRanks(2, [](const Rank& rank) {
    CountingWorld world(rank.world);
    const auto all = world.Split(0, "all");
    const auto edge = world.Split(0, "edge");
    const Tensor t = at::zeros({4});
    if (rank.index() == 1) std::this_thread::sleep_for(milliseconds(50));
    all->AllReduceSum(t).Wait();
    if (rank.index() == 0) std::this_thread::sleep_for(milliseconds(50));
    (rank.index() == 0 ? edge->Send(t, 1) : edge->Recv(t, 0)).Wait();
    const auto reduce = world.Total(Operation::kAllReduceSum).time;
    const auto send = world.Total(Operation::kSend).time;
    EXPECT_GE(rank.index() == 0 ? reduce : send, milliseconds(30)) << "waited for the other";
    EXPECT_LT(rank.index() == 0 ? send : reduce, milliseconds(30));
    EXPECT_EQ(world.Total(Operation::kAllGather).time.count(), 0);
    EXPECT_EQ(world.Total().time, reduce + send);
    EXPECT_EQ(world.Of("all").time, reduce);
  });
}

TEST(CountingCommunicatorTest, PassesNoColorAndAbortOn) {
  EXPECT_THROW(RunRanks(2,
                        [](const Rank& rank) {
                          CountingWorld world(rank.world);
                          EXPECT_EQ(world.Split(-1, "none"), nullptr);
                          const auto all = world.Split(0, "all");
                          all->Abort("enough");
                          all->AllReduceSum(at::zeros({1})).Wait();
                        }),
               RankFailure);
}

}  // namespace
}  // namespace patchflow
