// What ranks wait for each other on GPUs, where only their streams wait.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/Sleep.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>
#include <gmock/gmock.h>

#include <chrono>

#include "engine/step_graph.h"
#include "engine/stream_waits.h"
#include "parallel/counting_communicator.h"
#include "parallel/group.h"
#include "parallel/nccl_world.h"
#include "tests/parallel/method_case.h"

namespace patchflow {
namespace {

constexpr int64_t kCycles = 10'000'000;  // 5 to 10 ms, beside which an operation takes nothing.
constexpr int64_t kUsual = 16;

double Ms(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

// Of a kernel that spins.
double SleepMs() {
  at::cuda::CUDAEvent begin(cudaEventDefault);
  at::cuda::CUDAEvent end(cudaEventDefault);
  at::cuda::sleep(1000);
  begin.record();
  at::cuda::sleep(kCycles);
  end.record();
  end.synchronize();
  return begin.elapsed_time(end);
}

void WaitAndTell(const Rank& here) {
  c10::cuda::getCurrentCUDAStream(here.device.index()).synchronize();
  TellWaits();
}

class NcclWaits : public testing::Test {
 protected:
  void TearDown() override { TimeOneReplayIn(kUsual); }
};

// Rank 1 comes a sleep later than rank 0.
struct LateOne {
  explicit LateOne(const Rank& rank) : here(rank), world(rank.world), pair(world.Split(0, "pair")) {
    at::cuda::sleep(20 * kCycles);  // Until clocks are up.
    pair->AllReduceSum(t).Wait();
    WaitAndTell(here);
    before = world.Of("pair").time;
  }
  void operator()() const {
    if (here.index() == 1) at::cuda::sleep(kCycles);
    pair->AllReduceSum(t).Wait();
  }
  // Rank 0 has waited for so many sleeps, rank 1 for none.
  void Expect(int64_t sleeps) const {
    WaitAndTell(here);
    const double waited_ms = Ms(world.Of("pair").time - before);
    const double sleep_ms = SleepMs();
    if (here.index() == 0) {
      EXPECT_GT(waited_ms, 0.8 * static_cast<double>(sleeps) * sleep_ms);
      EXPECT_LT(waited_ms, (static_cast<double>(sleeps) + 1.5) * 1.2 * sleep_ms);
    } else {
      EXPECT_LT(waited_ms, 0.2 * static_cast<double>(sleeps) * sleep_ms);
    }
  }

  const Rank& here;
  CountingWorld world;
  const Tensor t = at::ones({1024}, at::TensorOptions(here.device));
  std::unique_ptr<Communicator> pair;
  std::chrono::nanoseconds before{0};
};

TEST_F(NcclWaits, AreTimedWhereTheStreamStandsStill) {
  RunRanks(2, [](const Rank& here) {
    const LateOne late(here);
    for (int i = 0; i < 5; ++i) late();
    late.Expect(5);
  });
}

TEST_F(NcclWaits, OfReplaysCountForAllThatTheTimedOnesStandFor) {
  for (const int64_t every : {kUsual, int64_t{3}, int64_t{1}}) {
    TimeOneReplayIn(every);
    RunRanks(2, [&](const Rank& here) {
      const LateOne late(here);
      GraphPool pool;
      StepGraph graph(pool);
      const int64_t runs = 2 + 2 * every;  // One as it is, and the first replay.
      for (int64_t i = 0; i < runs; ++i) graph.Run([&] { late(); });
      late.Expect(runs);
      EXPECT_EQ(late.world.Of("pair").calls, runs + 1);
    });
  }
}

TEST_F(NcclWaits, HiddenBehindKernelsAreNone) {
  TimeOneReplayIn(2);
  RunRanks(2, [](const Rank& here) {
    CountingWorld world(here.world);
    const auto pair = world.Split(0, "pair");
    const Tensor t = at::ones({1024}, at::TensorOptions(here.device));
    GraphPool pool;
    StepGraph graph(pool);
    const auto step = [&] {
      if (here.index() == 1) at::cuda::sleep(kCycles);
      Pending sum = pair->AllReduceSum(t);
      if (here.index() == 0) at::cuda::sleep(2 * kCycles);
      sum.Wait();
      pair->AllReduceSum(t).Wait();  // Rank 1 waits here, so that both begin the next at once.
    };
    for (int i = 0; i < 3; ++i) graph.Run(step);
    WaitAndTell(here);
    const auto before = world.Of("pair").time;
    graph.Run(step);  // Timed, for two.
    WaitAndTell(here);
    const double waited_ms = Ms(world.Of("pair").time - before) / 2;
    const double sleep_ms = SleepMs();
    if (here.index() == 0) {
      EXPECT_LT(waited_ms, 0.3 * sleep_ms);
    } else {
      EXPECT_GT(waited_ms, 0.6 * sleep_ms);
    }
  });
}

TEST_F(NcclWaits, AreNotTimedWhenThatIsTurnedOff) {
  TimeOneReplayIn(0);
  RunRanks(2, [](const Rank& here) {
    const LateOne late(here);
    GraphPool pool;
    StepGraph graph(pool);
    for (int i = 0; i < 4; ++i) graph.Run([&] { late(); });
    WaitAndTell(here);
    EXPECT_EQ(late.world.Total().time.count(), 0);
    EXPECT_EQ(late.world.Total().calls, 5);
  });
}

// The memory of captured temporaries, 64 MiB here.
TEST_F(NcclWaits, TimedReplaysUseTheMemoryOfTheOthers) {
  std::vector<int64_t> reserved_bytes;
  for (const int64_t every : {int64_t{0}, kUsual}) {
    TimeOneReplayIn(every);
    RunRanks(2, [&](const Rank& here) {
      const auto reserved = [&] {
        return c10::cuda::CUDACachingAllocator::getDeviceStats(here.device.index())
            .reserved_bytes[0]
            .current;
      };
      CountingWorld world(here.world);
      const auto pair = world.Split(0, "pair");
      GraphPool pool;
      StepGraph graph(pool);
      const auto step = [&] {
        const Tensor t = at::ones({1 << 24}, at::TensorOptions(here.device));
        pair->AllReduceSum(t).Wait();
      };
      graph.Run(step);
      const int64_t before = reserved();
      for (int i = 0; i < 3; ++i) graph.Run(step);
      if (here.index() == 0) reserved_bytes.push_back(reserved() - before);
      WaitAndTell(here);
    });
  }
  ASSERT_EQ(reserved_bytes.size(), 2U);
  EXPECT_GE(reserved_bytes[0], int64_t{1} << 26);
  EXPECT_EQ(reserved_bytes[1], reserved_bytes[0]);
}

// Of two requests, the second of which is replayed from its first step.
struct Latents {
  Tensor first;
  Tensor second;
  std::chrono::nanoseconds waited;
};

Latents DenoiseTwice(const std::string& layout_text, int64_t one_timed_in) {
  TimeOneReplayIn(one_timed_in);
  const MethodCase c{layout_text};
  const Network network = NetworkOf(c);
  const Layout layout = *ParseLayout(layout_text);
  const TestJob job = MakeTestJob(network.config, c.job);
  Latents made;
  RunRanks(2, [&](const Rank& rank) {
    CountingWorld world(rank.world);
    const GroupRank member(layout, world, network.config);
    const EnginePorts ports = member.ports();
    const auto transformer = network.make(ports, rank.device);
    const auto denoiser = ports.make_denoiser(*transformer);
    const TestJob here = job.To(rank.device);
    TestMonitor monitor;
    const Tensor first = denoiser->Denoise(here.job(), monitor).cpu();
    const Tensor second = denoiser->Denoise(here.job(), monitor).cpu();
    WaitAndTell(rank);
    if (rank.index() == 0) made = {first, second, world.Total().time};
  });
  return made;
}

TEST_F(NcclWaits, TimingChangesNoBitOfAnyMethod) {
  for (const char* layout :
       {"tensor=2", "ulysses=2", "ring=2", "guidance=2", "distrifusion=2,warmup_steps=2",
        "pipefusion=2,patches=3,warmup_steps=1"}) {
    const Latents untimed = DenoiseTwice(layout, 0);
    EXPECT_EQ(untimed.waited.count(), 0);
    for (const int64_t every : {int64_t{1}, kUsual}) {
      const Latents timed = DenoiseTwice(layout, every);
      EXPECT_TRUE(at::equal(timed.first, untimed.first)) << layout << ", one in " << every;
      EXPECT_TRUE(at::equal(timed.second, untimed.second)) << layout << ", one in " << every;
      EXPECT_GT(timed.waited.count(), 0) << layout << ", one in " << every;
    }
  }
}

}  // namespace
}  // namespace patchflow
