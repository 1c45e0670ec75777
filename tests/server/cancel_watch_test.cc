#include "server/cancel_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

#include "tests/server/dispatcher_fixture.h"

namespace patchflow {
namespace {

using ::testing::Each;
using ::testing::Ge;
using ::testing::IsEmpty;
using ::testing::Lt;
using ::testing::SizeIs;

constexpr auto kBusy = worker::v1::WORKER_STATE_BUSY;
constexpr auto kReady = worker::v1::WORKER_STATE_READY;
constexpr absl::Duration kStep = absl::Milliseconds(60);

void Pass() { std::this_thread::sleep_for(ToClock(kStep)); }

class CancelWatchTest : public ::testing::Test {
 protected:
  // One that has the ranks is cancelled now, and its call ends at once.
  void Cancel() {
    watch_.Leave();
    watch_.Cancelled(Clock::now(), [this](absl::Duration time) { reported_.push_back(time); });
  }

  CancelWatch watch_;
  std::vector<absl::Duration> reported_;
};

TEST_F(CancelWatchTest, WaitsForAHeartbeatThatIsNotBusy) {
  watch_.Beat(kReady);
  watch_.Enter();
  Cancel();
  watch_.Beat(kBusy);
  EXPECT_THAT(reported_, IsEmpty());
  Pass();
  watch_.Beat(kReady);
  watch_.Beat(kReady);
  ASSERT_THAT(reported_, SizeIs(1));
  EXPECT_THAT(reported_, Each(Ge(kStep)));
}

TEST_F(CancelWatchTest, TheNextJobsFirstEventTellsToo) {
  watch_.Enter();
  const auto began_before = Clock::now();
  Pass();
  Cancel();
  watch_.Heard(began_before);
  EXPECT_THAT(reported_, IsEmpty()) << "what ran beside it tells nothing";
  Pass();
  watch_.Heard(Clock::now());
  EXPECT_THAT(reported_, SizeIs(1));
  EXPECT_THAT(reported_, Each(Ge(kStep)));
}

TEST_F(CancelWatchTest, ALostWorkerRunsItNoMore) {
  watch_.Enter();
  Cancel();
  Pass();
  watch_.Lost();
  EXPECT_THAT(reported_, SizeIs(1));
  EXPECT_THAT(reported_, Each(Ge(kStep)));
}

TEST_F(CancelWatchTest, ACallThatEndsAfterTheRanksAreFreeIsReportedAtOnce) {
  watch_.Enter();
  const auto when = Clock::now();
  Pass();
  watch_.Beat(kReady);
  watch_.Leave();
  watch_.Cancelled(when, [this](absl::Duration time) { reported_.push_back(time); });
  EXPECT_THAT(reported_, SizeIs(1));
}

TEST_F(CancelWatchTest, OfABatchInWhichOthersGoOnItsOwnEndCounts) {
  watch_.Enter();
  watch_.Enter();
  Cancel();
  EXPECT_THAT(reported_, SizeIs(1));
  Cancel();
  EXPECT_THAT(reported_, SizeIs(1)) << "the last one frees the ranks";
  Pass();
  watch_.Beat(kReady);
  EXPECT_THAT(reported_, SizeIs(2));
}

TEST_F(CancelWatchTest, AWorkerThatNeverStopsIsReportedAfterFiveMinutes) {
  watch_.Enter();
  watch_.Leave();
  watch_.Cancelled(Clock::now() - std::chrono::minutes(4),
                   [this](absl::Duration time) { reported_.push_back(time); });
  watch_.Beat(kBusy);
  EXPECT_THAT(reported_, IsEmpty());
  watch_.Cancelled(Clock::now() - std::chrono::minutes(6),
                   [this](absl::Duration time) { reported_.push_back(time); });
  watch_.Beat(kBusy);
  EXPECT_THAT(reported_, SizeIs(1));
}

// A dispatcher's: what ScriptedWorker's calls do, gRPC's do too. They end when they are cancelled.
class CancelledJobTest : public DispatcherTest {
 protected:
  std::shared_ptr<Generation> RunAndCancel() {
    auto generation = Submit("a");
    EXPECT_TRUE(Eventually([&] { return generation->standing().step == 1; }));
    generation->End(TestError(absl::StatusCode::kCancelled, reason::kCancelledByRequest));
    EXPECT_TRUE(Eventually([&] { return group_.running().empty(); }));
    return generation;
  }
  void Beat(worker::v1::WorkerState state) {
    worker::v1::WatchResponse beat;
    beat.set_state(state);
    group_.Beat(beat);
  }
  // Number and sum of what was observed.
  std::pair<double, double> Observed() {
    const std::string text = metrics_.Text([] {});
    const auto value = [&](const std::string& part) {
      const std::string name =
          "patchflow_cancel_latency_seconds_" + part + R"({model="shapes",phase="running"} )";
      return std::stod(text.substr(text.find(name) + name.size()));
    };
    return {value("count"), value("sum")};
  }
};

TEST_F(CancelledJobTest, CountsUntilTheWorkerStops) {
  Serve([](int /*n*/, ScriptedJob& job) { job.Step(0, 1); });
  RunAndCancel();
  Beat(kBusy);
  EXPECT_EQ(Observed().first, 0);
  Pass();
  Beat(kReady);
  EXPECT_EQ(Observed().first, 1);
  EXPECT_GE(Observed().second, absl::ToDoubleSeconds(kStep));
}

TEST_F(CancelledJobTest, CountsUntilTheWorkerTakesTheNextJob) {
  const auto until = Clock::now() + std::chrono::seconds(5);
  std::atomic<bool> stops = false;
  Serve([&](int n, ScriptedJob& job) {
    if (n == 0) {
      job.Step(0, 1);
    } else if (!stops && Clock::now() < until) {
      job.End(TestError(absl::StatusCode::kResourceExhausted, reason::kWorkerBusy));
    } else {
      MakeAll(n, job);
    }
  });
  RunAndCancel();
  auto next = Submit("b");
  Pass();
  EXPECT_EQ(Observed().first, 0) << "the worker is busy";
  stops = true;
  ASSERT_TRUE(Ends(next));
  EXPECT_EQ(Observed().first, 1);
  EXPECT_GE(Observed().second, absl::ToDoubleSeconds(kStep));
}

TEST_F(CancelledJobTest, InItsTailTheRanksWereFree) {
  Serve([](int /*n*/, ScriptedJob& job) {
    job.Step(0, 1);
    job.RanksFree();
  });
  auto generation = Submit("a");
  ASSERT_TRUE(Eventually([&] { return !group_.tail().empty(); }));
  generation->End(TestError(absl::StatusCode::kCancelled, reason::kCancelledByRequest));
  ASSERT_TRUE(Eventually([&] { return group_.tail().empty(); }));
  EXPECT_TRUE(Eventually([&] { return Observed().first == 1; }));
}

}  // namespace
}  // namespace patchflow
