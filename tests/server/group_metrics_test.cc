#include "server/group_metrics.h"

#include <gmock/gmock.h>
#include <prometheus/text_serializer.h>

#include <string>

namespace patchflow {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class GroupMetricsTest : public ::testing::Test {
 protected:
  std::string Text() { return prometheus::TextSerializer().Serialize(registry_.Collect()); }
  void Beat(worker::v1::WorkerState state) {
    worker::v1::WatchResponse beat;
    beat.set_state(state);
    group_.Beat(beat);
  }
  void Serve() {
    worker::v1::DescribeResponse info;
    info.mutable_load_time()->set_seconds(7);
    info.mutable_warmup_time()->set_seconds(2);
    group_.SetServing(nullptr, info);
  }
  std::string Told(bool draining = false) {
    metrics_.Set(group_, draining);
    const std::string text = Text();
    std::string told;
    for (const char* state :
         {"starting", "warming", "serving", "draining", "recovering", "failed"}) {
      if (text.find(std::string("patchflow_group_state{group=\"g\",state=\"") + state + "\"} 1") !=
          std::string::npos) {
        told += state;
      }
    }
    return told;
  }

  prometheus::Registry registry_;
  GroupMetrics metrics_{registry_, "g"};
  Group group_{
      GroupConfig{.name = "g", .model = "", .model_name = "shapes", .layout = "", .workers = {}}};
};

TEST_F(GroupMetricsTest, TellsOneStateOfSix) {
  EXPECT_EQ(Told(), "starting");
  Beat(worker::v1::WORKER_STATE_LOADING);
  EXPECT_EQ(Told(), "starting");
  Beat(worker::v1::WORKER_STATE_WARMING);
  EXPECT_EQ(Told(), "warming");
  Serve();
  EXPECT_EQ(Told(), "serving");
  EXPECT_EQ(Told(/*draining=*/true), "draining");
  Beat(worker::v1::WORKER_STATE_READY);
  group_.SetLost("gone");
  EXPECT_EQ(Told(), "recovering");
  EXPECT_EQ(Told(/*draining=*/true), "recovering") << "it serves nobody";
  Beat(worker::v1::WORKER_STATE_WARMING);
  EXPECT_EQ(Told(), "warming");
  group_.SetFailed("sick");
  EXPECT_EQ(Told(), "failed");
}

TEST_F(GroupMetricsTest, WhatAWorkerSaidLastIsForgottenWithIt) {
  Beat(worker::v1::WORKER_STATE_WARMING);
  group_.SetLost("killed");
  EXPECT_EQ(Told(), "starting");
}

TEST_F(GroupMetricsTest, CountsLossesLimitsAndErrorsOfNccl) {
  EXPECT_THAT(Text(), HasSubstr(R"(patchflow_watchdog_trips_total{group="g",phase="decode"} 0)"));
  group_.SetLost("gone", LossKind::kHeartbeat);
  group_.SetLost("gone", LossKind::kFailed);
  group_.CountWatchdogTrip("decode");
  group_.CountWatchdogTrip("decode");
  group_.CountWatchdogTrip("a phase of a worker of another build");
  group_.CountNcclErrors(3);
  for (int i = 0; i < 2; ++i) {
    metrics_.Set(group_, false);
  }
  const std::string text = Text();
  for (const char* series : {R"(patchflow_worker_losses_total{group="g",reason="heartbeat"} 1)",
                             R"(patchflow_worker_losses_total{group="g",reason="job"} 0)",
                             R"(patchflow_group_restarts_total{group="g"} 2)",
                             R"(patchflow_watchdog_trips_total{group="g",phase="decode"} 2)",
                             R"(patchflow_watchdog_trips_total{group="g",phase="load"} 0)",
                             R"(patchflow_nccl_errors_total{group="g"} 3)"}) {
    EXPECT_THAT(text, HasSubstr(series));
  }
  EXPECT_THAT(text, Not(HasSubstr("another build"))) << "labels come from closed sets";
}

TEST_F(GroupMetricsTest, TellsHowLongItTookToBeReady) {
  Serve();
  metrics_.Set(group_, false);
  EXPECT_THAT(Text(), HasSubstr(R"(patchflow_model_load_seconds{group="g"} 7)"));
  EXPECT_THAT(Text(), HasSubstr(R"(patchflow_warmup_seconds{group="g"} 2)"));
}

TEST_F(GroupMetricsTest, AGroupThatFollowsCountsOn) {
  group_.SetLost("gone", LossKind::kStalled);
  group_.CountWatchdogTrip("step");
  metrics_.Set(group_, false);
  Group next(group_.config(), group_.losses(), group_.faults());
  next.CountWatchdogTrip("step");
  metrics_.Set(next, false);
  EXPECT_THAT(Text(), HasSubstr(R"(patchflow_watchdog_trips_total{group="g",phase="step"} 2)"));
  EXPECT_THAT(Text(), HasSubstr(R"(patchflow_group_restarts_total{group="g"} 1)"));
}

}  // namespace
}  // namespace patchflow
