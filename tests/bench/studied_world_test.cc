#include "bench/studied_world.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <chrono>
#include <vector>

#include "parallel/counting_communicator.h"
#include "parallel/group.h"
#include "tests/parallel/method_case.h"

namespace patchflow {
namespace {

using Mode = StudiedWorld::Mode;
using Transfer = Communicator::Transfer;

// Every kind of operation once.
void ExchangeAll(Communicator& pair) {
  const int peer = 1 - pair.rank();
  pair.AllReduceSum(at::ones({8})).Wait();
  pair.AllGather(at::ones({2, 3}), at::ones({2, 2, 3})).Wait();
  pair.AllToAll(at::ones({2, 5}), at::ones({2, 5})).Wait();
  (peer == 1 ? pair.Send(at::ones({7}), peer) : pair.Recv(at::ones({7}), peer)).Wait();
  pair.Grouped({{Transfer::Kind::kSend, at::ones({3}), peer},
                {Transfer::Kind::kRecv, at::ones({3}), peer}})
      .Wait();
}

TEST(StudiedWorldTest, SilenceSendsNothingAndWaitsForNobody) {
  RunRanks(2, [](const Rank& rank) {
    CountingWorld counted(rank.world);
    StudiedWorld world(counted, rank.device);
    const auto pair = world.Split(0, "pair");
    world.Set(Mode::kSilent);
    if (rank.index() == 0) ExchangeAll(*pair);  // The other never comes.
    EXPECT_EQ(counted.Total().calls, 0);
    EXPECT_EQ(counted.Total().bytes, 0);
    world.Set(Mode::kAsIs);
    ExchangeAll(*pair);
    EXPECT_GT(counted.Total().bytes, 0);
    EXPECT_TRUE(world.record().empty());
  });
}

TEST(StudiedWorldTest, SilenceLeavesSumsAsTheyAreAndDrawsWhatIsReceivedOnce) {
  RunRanks(2, [](const Rank& rank) {
    StudiedWorld world(rank.world, rank.device);
    const auto pair = world.Split(0, "pair");
    world.Set(Mode::kSilent);
    const Tensor sum = at::full({4}, 3.0);
    pair->AllReduceSum(sum).Wait();
    EXPECT_TRUE(at::equal(sum, at::full({4}, 3.0)));
    const Tensor received = at::full({1000}, std::numeric_limits<float>::quiet_NaN());
    pair->Recv(received, 1 - rank.index()).Wait();
    EXPECT_TRUE(at::isfinite(received).all().item<bool>());
    EXPECT_NEAR(received.std().item<float>(), 1, 0.2);
    const Tensor before = received.clone();
    pair->Recv(received, 1 - rank.index()).Wait();
    EXPECT_TRUE(at::equal(received, before));
  });
}

TEST(StudiedWorldTest, WhatIsMadeAgainSendsTheBytesOfTheRecord) {
  RunRanks(2, [](const Rank& rank) {
    CountingWorld counted(rank.world);
    StudiedWorld world(counted, rank.device);
    const auto none = world.Split(-1, "none");
    const auto pair = world.Split(0, "pair");
    world.Set(Mode::kRecord);
    ExchangeAll(*pair);
    const std::vector<Exchange> record = world.record();
    EXPECT_EQ(record.size(), 5U);
    std::vector<Traffic::Count> before;
    const auto operations = {Operation::kAllReduceSum, Operation::kAllGather, Operation::kAllToAll,
                             Operation::kSend};
    for (const Operation operation : operations) before.push_back(counted.Total(operation));
    world.Set(Mode::kAsIs);
    world.Make(record);
    auto once = before.begin();
    for (const Operation operation : operations) {
      EXPECT_EQ(counted.Total(operation).calls, 2 * once->calls);
      EXPECT_EQ(counted.Total(operation).bytes, 2 * once->bytes);
      ++once;
    }
    EXPECT_EQ(world.record().size(), 5U) << "making is not recorded";
  });
}

TEST(StudiedWorldTest, BeyondAShorterRecordAreTheLastOperationsOfEachCommunicator) {
  const auto of = [](size_t communicator, int64_t bytes) {
    return Exchange{.communicator = communicator, .parts = {{Transfer::Kind::kSend, bytes, 1}}};
  };
  const std::vector<Exchange> shorter = {of(0, 1), of(1, 2), of(0, 3)};
  const std::vector<Exchange> longer = {of(1, 1), of(0, 2), of(0, 3), of(0, 4), of(1, 5), of(1, 6)};
  std::vector<int64_t> bytes;
  for (const Exchange& exchange : Beyond(longer, shorter)) {
    bytes.push_back(exchange.parts[0].bytes);
  }
  EXPECT_THAT(bytes, testing::ElementsAre(4, 5, 6));
}

int64_t StoppedBefore(Denoiser& denoiser, const DenoiseJob& job, int step) {
  TestMonitor monitor(step);
  EXPECT_THROW(denoiser.Denoise(job, monitor), Cancelled);
  return step;
}

// Two steps of it, from records of runs of three and of five.
void ExpectStepsAreMadeAgain(const std::string& layout_text) {
  const MethodCase c{layout_text, kSameOrder, {.grid = {5, 7}, .steps = 8}};
  const Network network = NetworkOf(c);
  const Layout layout = *ParseLayout(layout_text);
  const TestJob job = MakeTestJob(network.config, c.job);
  RunRanks(layout.ranks(), [&](const Rank& rank) {
    CountingWorld counted(rank.world);
    StudiedWorld world(counted, rank.device);
    const GroupRank member(layout, world, network.config);
    const EnginePorts ports = member.ports();
    const auto transformer = network.make(ports, rank.device);
    const auto denoiser = ports.make_denoiser(*transformer);
    const auto record = [&](int steps) {
      world.Set(Mode::kRecord);
      const int64_t before = counted.Total().bytes;
      StoppedBefore(*denoiser, job.job(), steps);
      return std::pair(world.record(), counted.Total().bytes - before);
    };
    const auto [shorter, fewer_bytes] = record(3);
    const auto [longer, more_bytes] = record(5);
    const std::vector<Exchange> beyond = Beyond(longer, shorter);
    EXPECT_EQ(beyond.size(), longer.size() - shorter.size());
    world.Set(Mode::kAsIs);
    for (int again = 0; again < 2; ++again) {
      const int64_t before = counted.Total().bytes;
      world.Make(beyond);
      EXPECT_EQ(counted.Total().bytes - before, more_bytes - fewer_bytes) << layout_text;
    }
    world.Set(Mode::kSilent);
    const int64_t before = counted.Total().calls;
    StoppedBefore(*denoiser, job.job(), 5);
    EXPECT_EQ(counted.Total().calls, before) << layout_text;
  });
}

TEST(StudiedWorldTest, StepsOfEveryMethodAreMadeAgain) {
  for (const char* layout :
       {"tensor=2", "ulysses=2", "ring=3", "guidance=2", "distrifusion=2,warmup_steps=1",
        "pipefusion=2,patches=2,warmup_steps=1", "pipefusion=3,patches=4,warmup_steps=1",
        "pipefusion=2,patches=3,warmup_steps=1,ulysses=2"}) {
    ExpectStepsAreMadeAgain(layout);
  }
}

}  // namespace
}  // namespace patchflow
