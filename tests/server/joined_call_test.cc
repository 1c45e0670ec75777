#include "server/joined_call.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/joined_workers.h"
#include "tests/server/generations.h"
#include "tests/server/share_worker.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class JoinedCallTest : public ::testing::Test {
 protected:
  JoinedCallTest() {
    worker::v1::Ownership owner;
    owner.set_owner("front end");
    owner.set_epoch(7);
    for (const auto& worker : workers_) {
      worker::v1::JoinRequest join;
      *join.mutable_ownership() = owner;
      join.set_world_id("id");
      EXPECT_TRUE(worker->Join(join, absl::Seconds(1)).ok());
    }
    joined_ = std::make_shared<JoinedWorkers>(JoinedCall::Members(workers_.begin(), workers_.end()),
                                              owner, absl::Seconds(1));
  }
  std::unique_ptr<ExecuteCall> Execute() {
    worker::v1::ExecuteRequest request;
    request.add_image_indices(0);
    return joined_->Execute(request);
  }
  ScriptedJob& Job(size_t worker) { return *workers_[worker]->job(workers_[worker]->jobs() - 1); }
  void EndAll(const absl::Status& status) {
    for (size_t i = 0; i < workers_.size(); ++i) {
      Job(i).End(status);
    }
  }
  static int Drain(ExecuteCall& call) {
    int events = 0;
    worker::v1::ExecuteResponse event;
    while (call.Read(event)) {
      ++events;
    }
    return events;
  }

  std::vector<std::shared_ptr<ShareWorker>> workers_ = {std::make_shared<ShareWorker>(1, 3),
                                                        std::make_shared<ShareWorker>(1, 3),
                                                        std::make_shared<ShareWorker>(1, 3)};
  std::shared_ptr<JoinedWorkers> joined_;
};

TEST_F(JoinedCallTest, GivesTheSameJobToAllAndReadsFromTheFirst) {
  auto call = Execute();
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(Job(i).request.job(), 1);
    EXPECT_EQ(Job(i).request.ownership().epoch(), 7);
    EXPECT_THAT(Job(i).request.image_indices(), ElementsAre(0));
    Job(i).Step(0, 1);
  }
  Job(0).Image(0);
  EndAll(absl::OkStatus());
  EXPECT_EQ(Drain(*call), 4) << "a step and an image of three parts";
  EXPECT_TRUE(call->Finish().ok());
  auto next = Execute();
  EXPECT_EQ(Job(2).request.job(), 2);
  EndAll(absl::OkStatus());
  Drain(*next);
  EXPECT_TRUE(next->Finish().ok());
}

TEST_F(JoinedCallTest, HandsOnWhatTheRanksOfAllDid) {
  auto call = Execute();
  worker::v1::ExecuteResponse trace;
  trace.mutable_image_trace()->add_ranks()->set_rank(2);
  Job(2).Send(trace);
  Job(2).Step(0, 1);
  Job(0).Image(0);
  EndAll(absl::OkStatus());
  std::vector<int> ranks;
  worker::v1::ExecuteResponse event;
  int others = 0;
  while (call->Read(event)) {
    if (event.has_image_trace()) {
      ranks.push_back(event.image_trace().ranks(0).rank());
    } else {
      ++others;
    }
  }
  EXPECT_THAT(ranks, ElementsAre(2));
  EXPECT_EQ(others, 3) << "the image, and not the other's step";
  EXPECT_TRUE(call->Finish().ok());
}

TEST_F(JoinedCallTest, TheRanksAreFreeWhenThoseOfAllWorkersAre) {
  auto call = Execute();
  Job(0).Step(0, 1);
  Job(0).RanksFree();
  Job(0).Image(0);
  Job(1).End(absl::OkStatus());
  std::atomic<bool> told = false;
  std::thread reader([&] {
    worker::v1::ExecuteResponse event;
    while (call->Read(event) && !event.has_ranks_free()) {
    }
    told = event.has_ranks_free();
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(told) << "the last worker's are not";
  Job(2).RanksFree();
  reader.join();
  EXPECT_TRUE(told);
  EndAll(absl::OkStatus());
  EXPECT_EQ(Drain(*call), 3) << "the image";
  EXPECT_TRUE(call->Finish().ok());
}

TEST_F(JoinedCallTest, TheRanksOfALostGroupAreNotFree) {
  auto call = Execute();
  Job(0).RanksFree();
  Job(1).RanksFree();
  Job(2).End(absl::UnavailableError("Socket closed"));
  worker::v1::ExecuteResponse event;
  while (call->Read(event)) {
    EXPECT_FALSE(event.has_ranks_free());
  }
  EXPECT_TRUE(absl::IsUnavailable(call->Finish()));
}

TEST_F(JoinedCallTest, WhatAllRefuseIsRefused) {
  auto call = Execute();
  EndAll(MakeError(absl::StatusCode::kInvalidArgument, reason::kInvalidRequest, "too wide"));
  Drain(*call);
  const absl::Status status = call->Finish();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(ReasonOf(status), reason::kInvalidRequest);
}

TEST_F(JoinedCallTest, WhatOneAloneRefusesLosesTheGroup) {
  auto call = Execute();
  Job(1).End(MakeError(absl::StatusCode::kInvalidArgument, reason::kInvalidRequest, "too wide"));
  Drain(*call);
  const absl::Status status = call->Finish();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(ReasonOf(status), "");
  EXPECT_THAT(std::string(status.message()), HasSubstr("worker 1 INVALID_ARGUMENT (too wide)"));
  EXPECT_TRUE(Job(0).cancelled() && Job(2).cancelled()) << "they are not waited for";
}

TEST_F(JoinedCallTest, ALostWorkerEndsTheCallOfAll) {
  auto call = Execute();
  Job(0).Step(0, 1);
  Job(2).End(absl::UnavailableError("Socket closed"));
  EXPECT_EQ(Drain(*call), 1);
  EXPECT_TRUE(absl::IsUnavailable(call->Finish()));
}

TEST_F(JoinedCallTest, TheFaultThatNamesTheRequestIsTold) {
  auto call = Execute();
  Job(0).End(absl::InternalError("rank 2 is gone"));
  Job(2).End(MakeError(absl::StatusCode::kResourceExhausted, reason::kGpuOutOfMemory, "full"));
  Job(1).End(absl::InternalError("rank 2 is gone"));
  Drain(*call);
  EXPECT_EQ(ReasonOf(call->Finish()), reason::kGpuOutOfMemory);
}

TEST_F(JoinedCallTest, AStaleEpochIsALostGroup) {
  auto call = Execute();
  EndAll(MakeError(absl::StatusCode::kFailedPrecondition, "STALE_EPOCH", "another owner"));
  Drain(*call);
  EXPECT_TRUE(absl::IsUnavailable(call->Finish()));
}

TEST_F(JoinedCallTest, CancellingStopsAllAfterTheFarthestStep) {
  auto call = Execute();
  workers_[0]->last_begun = 3;
  workers_[1]->last_begun = 5;
  workers_[2]->last_begun = -1;
  call->Cancel();
  call->Cancel();
  Drain(*call);
  EXPECT_TRUE(absl::IsCancelled(call->Finish()));
  call.reset();
  for (const auto& worker : workers_) {
    EXPECT_THAT(worker->stops(), ElementsAre(6)) << "once, and the same for all";
  }
  EXPECT_FALSE(joined_->broken().has_value());
}

TEST_F(JoinedCallTest, CancellingWhatOneHasFinishedLetsTheOthersFinish) {
  auto call = Execute();
  workers_[1]->last_begun = std::numeric_limits<int64_t>::max();
  Job(1).End(absl::OkStatus());
  call->Cancel();
  ASSERT_TRUE(Eventually([&] { return workers_[2]->stops().size() == 1; }));
  EXPECT_THAT(workers_[2]->stops(), ElementsAre(std::numeric_limits<int64_t>::max()));
  EndAll(absl::OkStatus());
  Drain(*call);
  EXPECT_TRUE(call->Finish().ok());
}

TEST_F(JoinedCallTest, AWorkerThatDoesNotAnswerACancelBreaksTheGroup) {
  auto call = Execute();
  workers_[1]->deaf = true;
  call->Cancel();
  Drain(*call);
  EXPECT_FALSE(call->Finish().ok());
  call.reset();
  ASSERT_TRUE(joined_->broken().has_value());
  EXPECT_THAT(*joined_->broken(), HasSubstr("worker 1 can't be told to hold its job"));
  EXPECT_THAT(workers_[0]->stops(), ElementsAre()) << "nobody stops alone";
}

TEST_F(JoinedCallTest, AnAbandonedCallEndsAtOnce) {
  auto call = Execute();
  call->Abandon();
  Drain(*call);
  EXPECT_FALSE(call->Finish().ok());
  EXPECT_THAT(workers_[0]->stops(), ElementsAre());
}

}  // namespace
}  // namespace patchflow
