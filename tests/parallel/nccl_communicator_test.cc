// What only NCCL has: streams, CUDA graphs, faults that the host does not see.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "absl/time/clock.h"
#include "engine/step_graph.h"
#include "parallel/counting_communicator.h"
#include "parallel/nccl_world.h"
#include "tests/parallel/failure_of.h"

namespace patchflow {
namespace {

using testing::HasSubstr;
constexpr absl::Duration kShort =
    absl::Seconds(2);  // Long for an operation of two ranks that came.

Tensor Filled(const Rank& here, at::IntArrayRef sizes, double value) {
  return at::full(sizes, value, at::TensorOptions(here.device));
}

void WaitForStream(const Rank& here) {
  c10::cuda::getCurrentCUDAStream(here.device.index()).synchronize();
}

std::string FailureOf(const std::function<void(const Rank&)>& fn, const RunOptions& options = {}) {
  return patchflow::FailureOf(2, fn, options);
}

TEST(NcclStreams, NeitherACallNorAWaitBlocksTheHost) {
  RunRanks(2, [](const Rank& here) {
    const auto pair = here.world.Split(0, "pair");
    const Tensor t = Filled(here, {1 << 20}, here.index());
    // Loading a kernel for the first time waits for those that run.
    const Tensor first = t.clone();
    pair->AllReduceSum(first).Wait();
    EXPECT_EQ((first + 1).min().item<float>(), 2);
    if (here.index() == 1) {
      absl::SleepFor(absl::Seconds(1));
    }
    const absl::Time begin = absl::Now();
    pair->AllReduceSum(t).Wait();
    const Tensor after = t + 1;
    EXPECT_LT(absl::Now() - begin, absl::Milliseconds(500));
    EXPECT_EQ(after.min().item<float>(), 2);
  });
}

// Much work before and after, on another stream than the operation's.
TEST(NcclStreams, OperationsComeAfterWhatWasEnqueuedAndBeforeWhatWaits) {
  RunRanks(2, [](const Rank& here) {
    const auto pair = here.world.Split(0, "pair");
    const auto back = here.world.Split(0, "back");
    const int peer = 1 - here.index();
    for (int i = 0; i < 50; ++i) {
      Tensor t = Filled(here, {1 << 22}, i);
      for (int j = 0; j < 10; ++j) {
        t.add_(1 + here.index());
      }
      const Tensor in = Filled(here, {1 << 22}, -1);
      Pending send = (here.index() == 0 ? pair : back)->Send(t, peer);
      Pending receive = (here.index() == 0 ? back : pair)->Recv(in, peer);
      receive.Wait();
      const Tensor sum = in.sum(at::kDouble);
      send.Wait();
      t.fill_(-5);  // The memory is free for anything once it was waited for.
      EXPECT_EQ(sum.item<double>(), (1 << 22) * (i + 10.0 * (1 + peer)));
    }
  });
}

// An operation that nobody waits for still has its memory.
TEST(NcclStreams, ATensorLivesUntilItsOperationHasRun) {
  RunRanks(2, [](const Rank& here) {
    const auto pair = here.world.Split(0, "pair");
    const Tensor in = Filled(here, {1 << 22}, -1);
    if (here.index() == 1) {
      absl::SleepFor(absl::Milliseconds(300));
    }
    Pending receive;
    try {
      if (here.index() == 0) {
        const Pending send = pair->Send(Filled(here, {1 << 22}, 3), 1);
        throw 0;
      }
      receive = pair->Recv(in, 0);
    } catch (int) {
      const Tensor other = Filled(here, {1 << 22}, 4);  // Of the same size, while it travels.
    }
    receive.Wait();
    EXPECT_EQ(in.sum(at::kDouble).item<double>(), here.index() == 0 ? -(1 << 22) : 3.0 * (1 << 22));
  });
}

TEST(NcclGraphs, EveryOperationReplays) {
  RunRanks(2, [](const Rank& here) {
    const auto pair = here.world.Split(0, "pair");
    const auto back = here.world.Split(0, "back");
    GraphPool pool;
    StepGraph graph(pool);
    const int own = here.index();
    const int peer = 1 - own;
    const Tensor x = Filled(here, {2, 1024}, 0);
    const Tensor result = Filled(here, {3}, 0);
    const auto step = [&] {
      const Tensor sum = x[0].clone();
      Pending reduce = pair->AllReduceSum(sum);
      const Tensor gathered = at::empty({2, 1024}, x.options());
      const Tensor mine = x[1] * 2;
      reduce.Wait();
      pair->AllGather(mine, gathered).Wait();
      const Tensor swapped = at::empty_like(x);
      pair->AllToAll(x, swapped).Wait();
      const Tensor in = at::empty_like(mine);
      Pending send = (own == 0 ? pair : back)->Send(mine, peer);
      (own == 0 ? back : pair)->Recv(in, peer).Wait();
      send.Wait();
      result[0].copy_(sum.mean());
      result[1].copy_(gathered.mean() + in.mean());
      result[2].copy_(swapped[peer].mean());
      x.add_(1);
    };
    // Row r of rank o holds 10 o + r at first.
    x.copy_(Filled(here, {2, 1}, 10.0 * own) + at::arange(2, x.options()).unsqueeze(1));
    for (int i = 0; i < 5; ++i) {
      graph.Run(step);
      EXPECT_EQ(result[0].item<float>(), 10 + 2 * i);
      EXPECT_EQ(result[1].item<float>(), (2 * (1 + i) + 10) + 2 * (10 * peer + 1 + i));
      EXPECT_EQ(result[2].item<float>(), 10 * peer + own + i);
    }
  });
}

TEST(NcclGraphs, EveryReplayIsCounted) {
  RunRanks(2, [](const Rank& here) {
    CountingWorld world(here.world);
    const auto pair = world.Split(0, "pair");
    GraphPool pool;
    StepGraph graph(pool);
    const Tensor t = Filled(here, {1024}, 1);
    const auto step = [&] {
      pair->AllReduceSum(t).Wait();
      pair->AllReduceSum(t).Wait();
    };
    for (int runs = 1; runs <= 5; ++runs) {
      graph.Run(step);
      EXPECT_EQ(world.Of("pair").calls, 2 * runs);
      EXPECT_EQ(world.Of("pair").bytes, runs * 2 * static_cast<int64_t>(t.nbytes()));
    }
    pair->AllReduceSum(t).Wait();
    EXPECT_EQ(world.Of("pair").calls, 11) << "what is not captured counts at once";
    WaitForStream(here);
  });
}

// Captured memory is used again within the graph: communication does not keep it until the end.
TEST(NcclGraphs, WaitingGivesMemoryBackWithinTheCapture) {
  RunRanks(2, [](const Rank& here) {
    const auto pair = here.world.Split(0, "pair");
    GraphPool pool;
    StepGraph graph(pool);
    std::vector<const void*> places;
    const auto step = [&] {
      places.clear();
      for (int i = 0; i < 8; ++i) {
        const Tensor t = Filled(here, {1 << 22}, i);
        places.push_back(t.data_ptr());
        pair->AllReduceSum(t).Wait();
      }
    };
    graph.Run(step);
    graph.Run(step);
    EXPECT_THAT(places, testing::Each(places[0]));
  });
}

TEST(NcclFaults, AMissingPeerEndsTheRunWithinTheTimeout) {
  const absl::Time begin = absl::Now();
  const std::string failure = FailureOf(
      [](const Rank& here) {
        const auto pair = here.world.Split(0, "pair");
        if (here.index() == 0) {
          pair->AllReduceSum(Filled(here, {1}, 0)).Wait();
          WaitForStream(here);  // Until the watchdog ends it.
          pair->AllReduceSum(Filled(here, {1}, 0)).Wait();
        } else {
          absl::SleepFor(3 * kShort);
        }
      },
      {.wait_timeout = kShort});
  EXPECT_THAT(failure, HasSubstr("pair communicator: all_reduce_sum waited 2s for its peers"));
  EXPECT_LT(absl::Now() - begin, 5 * kShort);
}

TEST(NcclFaults, AMissingPeerEndsASendToo) {
  const std::string failure = FailureOf(
      [](const Rank& here) {
        const auto pair = here.world.Split(0, "pair");
        if (here.index() == 0) {
          const Tensor t =
              Filled(here, {1 << 28}, 0);  // 1 GiB: NCCL takes in 128 MiB without the peer.
          pair->Send(t, 1).Wait();
          WaitForStream(here);
          pair->Send(t, 1).Wait();
        } else {
          absl::SleepFor(3 * kShort);
        }
      },
      {.wait_timeout = kShort});
  EXPECT_THAT(failure, HasSubstr("pair communicator: send waited 2s for its peers"));
}

TEST(NcclFaults, AMissingPeerEndsASplit) {
  EXPECT_THAT(FailureOf(
                  [](const Rank& here) {
                    const auto pair = here.world.Split(0, "pair");
                    if (here.index() == 0) {
                      here.world.Split(0, "more");
                    } else {
                      absl::SleepFor(2 * kShort);
                    }
                  },
                  {.wait_timeout = kShort}),
              HasSubstr("waited 2s for the others to split off 'more'"));
}

TEST(NcclFaults, AMissingPeerEndsJoining) {
  EXPECT_THAT(FailureOf(
                  [](const Rank& here) {
                    if (here.index() == 0) {
                      here.world.Split(0, "pair");
                    } else {
                      absl::SleepFor(2 * kShort);
                    }
                  },
                  {.wait_timeout = kShort}),
              HasSubstr("waited 2s for the others to join"));
}

TEST(NcclFaults, SplitsInDifferentOrderAreRefused) {
  EXPECT_THAT(FailureOf([](const Rank& here) {
                here.world.Split(0, here.index() == 0 ? "ring" : "tensor");
              }),
              HasSubstr("where another splits"));
}

TEST(NcclFaults, AThrowOnOneRankUnblocksTheOtherWithItsMessage) {
  std::atomic<bool> unblocked = false;
  const absl::Time begin = absl::Now();
  const std::string failure = FailureOf([&](const Rank& here) {
    const auto pair = here.world.Split(0, "pair");
    if (here.index() == 1) {
      throw std::runtime_error("out of luck");
    }
    try {
      pair->AllReduceSum(Filled(here, {1}, 0)).Wait();
      WaitForStream(here);
      pair->AllReduceSum(Filled(here, {1}, 0)).Wait();
    } catch (const CommunicatorError& error) {
      unblocked = true;
      EXPECT_THAT(error.what(), HasSubstr("pair communicator was aborted: rank 1: out of luck"));
    }
  });
  EXPECT_EQ(failure, "rank 1: out of luck");
  EXPECT_TRUE(unblocked);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(15)) << "of " << RunOptions{}.wait_timeout;
}

// Nothing but failure() tells the host what became of a replay.
TEST(NcclFaults, AReplayWhosePeerIsGoneEnds) {
  std::atomic<bool> replayed = false;
  EXPECT_EQ(FailureOf([&](const Rank& here) {
              const auto pair = here.world.Split(0, "pair");
              GraphPool pool;
              StepGraph graph(pool);
              const Tensor t = Filled(here, {1024}, 1);
              const auto step = [&] { pair->AllReduceSum(t).Wait(); };
              graph.Run(step);
              graph.Run(step);
              WaitForStream(here);
              if (here.index() == 1) {
                throw std::runtime_error("gone");
              }
              graph.Run(step);
              WaitForStream(here);
              replayed = true;
              EXPECT_THAT(dynamic_cast<NcclWorld&>(here.world).failure(), HasSubstr("gone"));
            }),
            "rank 1: gone");
  EXPECT_TRUE(replayed);
}

// A world that was aborted does no harm to the next one.
TEST(NcclFaults, TheNextWorldIsSound) {
  for (int i = 0; i < 3; ++i) {
    EXPECT_NE(FailureOf([](const Rank& here) {
                const auto pair = here.world.Split(0, "pair");
                throw std::runtime_error("out of luck");
              }),
              "");
    EXPECT_EQ(FailureOf([](const Rank& here) {
                const auto pair = here.world.Split(0, "pair");
                const Tensor t = Filled(here, {5}, here.index());
                pair->AllReduceSum(t).Wait();
                EXPECT_TRUE(at::equal(t, Filled(here, {5}, 1)));
              }),
              "");
  }
}

TEST(NcclFaults, AnAbortedCommunicatorRefusesTheNextCall) {
  EXPECT_THAT(FailureOf([](const Rank& here) {
                const auto pair = here.world.Split(0, "pair");
                pair->Abort("enough");
                pair->AllReduceSum(Filled(here, {1}, 0)).Wait();
              }),
              HasSubstr("pair communicator was aborted: enough"));
}

TEST(NcclFaults, WrongTensorsAreRefused) {
  RunRanks(2, [](const Rank& here) {
    const auto pair = here.world.Split(0, "pair");
    const Tensor t = Filled(here, {2, 3}, 0);
    EXPECT_THROW(pair->AllReduceSum(t.t()).Wait(), c10::Error);
    EXPECT_THROW(pair->AllReduceSum(t.cpu()).Wait(), c10::Error);
    EXPECT_THROW(pair->AllReduceSum(t.to(at::kLong)).Wait(), c10::Error);
    EXPECT_THROW(pair->AllGather(t, Filled(here, {3, 2, 3}, 0)).Wait(), c10::Error);
    const Tensor three = Filled(here, {3, 2}, 0);
    EXPECT_THROW(pair->AllToAll(three, three).Wait(), c10::Error);
    EXPECT_THROW(pair->Send(t, here.index()).Wait(), c10::Error);
  });
}

TEST(NcclFaults, AnOperationNeverWaitedForIsReported) {
  EXPECT_THAT(FailureOf([](const Rank& here) {
                const auto pair = here.world.Split(0, "pair");
                const Pending forgotten = pair->AllReduceSum(Filled(here, {1}, 0));
              }),
              HasSubstr("never waited for: pair communicator, all_reduce_sum"));
}

TEST(NcclWorldTest, RefusesAnIdOfAnotherSizeAndRanksBeyondTheWorld) {
  const std::string id = NcclWorld::MakeId();
  const std::vector<at::Device> gpus = {{at::kCUDA, 0}, {at::kCUDA, 1}};
  EXPECT_THROW(NcclWorld::Join("id", 2, 0, gpus, {}), c10::Error);
  EXPECT_THROW(NcclWorld::Join(id, 2, 1, gpus, {}), c10::Error);
  EXPECT_THROW(NcclWorld::Join(id, 2, 0, {at::kCPU, at::kCPU}, {}), c10::Error);
}

}  // namespace
}  // namespace patchflow
