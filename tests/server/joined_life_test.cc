#include "server/joined_life.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "server/supervisor.h"
#include "tests/server/generations.h"
#include "tests/server/share_worker.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

class JoinedLifeTest : public ::testing::Test {
 protected:
  JoinedLifeTest() {
    rules_.heartbeat_interval = absl::Milliseconds(10);
    rules_.heartbeat_timeout = absl::Milliseconds(500);
    rules_.back_off = absl::Milliseconds(10);
  }
  ~JoinedLifeTest() override {
    group_.Stop();
    supervisor_.reset();
  }
  void Supervise(const std::string& owner = "front end") {
    Supervisor::Options options;
    options.supervision = rules_;
    options.owner = owner;
    options.connect = [this](const std::string& address) -> std::unique_ptr<WorkerClient> {
      return std::make_unique<SharedClient>(address == "first:1" ? first_ : second_);
    };
    options.on_given_up = [](const std::string& why) { ADD_FAILURE() << why; };
    supervisor_ = std::make_unique<Supervisor>(group_, options);
  }
  bool Serves(uint64_t after = 0) {
    return Eventually([&] {
      return group_.state() == GroupState::kServing && first_->ownership().epoch() > after;
    });
  }
  bool Loses(int times) {
    return Eventually([&] {
      int losses = 0;
      for (const auto& [kind, count] : group_.losses()) {
        losses += count;
      }
      return losses >= times;
    });
  }

  Supervision rules_;
  std::shared_ptr<ShareWorker> first_ = std::make_shared<ShareWorker>(2, 5);
  std::shared_ptr<ShareWorker> second_ = std::make_shared<ShareWorker>(3, 5);
  Group group_{GroupConfig{.name = "g",
                           .model = "",
                           .model_name = "shapes",
                           .layout = "",
                           .workers = {"first:1", "second:1"}}};
  std::unique_ptr<Supervisor> supervisor_;
};

TEST_F(JoinedLifeTest, AsksTheFirstForTheIdAndGivesAllTheirPlaces) {
  Supervise();
  ASSERT_TRUE(Serves());
  EXPECT_EQ(first_->worlds_made(), 1);
  EXPECT_EQ(second_->worlds_made(), 0);
  EXPECT_THAT(first_->hosts(), ::testing::ElementsAre("first")) << "as others know its host";
  EXPECT_EQ(first_->world_id(), "world 1");
  EXPECT_EQ(second_->world_id(), "world 1");
  EXPECT_EQ(first_->first_rank(), 0);
  EXPECT_EQ(second_->first_rank(), 2);
  EXPECT_EQ(first_->ownership().epoch(), second_->ownership().epoch());
  EXPECT_EQ(second_->ownership().owner(), "front end");
  EXPECT_EQ(group_.info()->ranks(), 5);
}

TEST_F(JoinedLifeTest, BeatsWithTheRanksOfAll) {
  Supervise();
  ASSERT_TRUE(Serves());
  ASSERT_TRUE(Eventually([&] { return group_.last_beat().ranks_size() == 5; }));
  for (int rank = 0; rank < 5; ++rank) {
    EXPECT_EQ(group_.last_beat().ranks(rank).rank(), rank);
  }
}

TEST_F(JoinedLifeTest, HandsHintsToAll) {
  Supervise();
  ASSERT_TRUE(Serves());
  worker::v1::PrepareRequest hint;
  hint.add_texts("a star");
  group_.WaitServing()->client->Prepare(hint);
  EXPECT_THAT(first_->hint(), ::testing::ElementsAre("a star"));
  EXPECT_THAT(second_->hint(), ::testing::ElementsAre("a star"));
}

TEST_F(JoinedLifeTest, WaitsForAWorkerThatComesLate) {
  second_->Die();
  Supervise();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(first_->worlds_made(), 0) << "nothing begins without all";
  EXPECT_EQ(group_.state(), GroupState::kStarting);
  second_->Restart();
  ASSERT_TRUE(Serves());
  EXPECT_EQ(group_.failures(), 0) << "waiting is no failure";
}

TEST_F(JoinedLifeTest, IsReadyWhenEveryWorkerIs) {
  second_->loads = false;
  Supervise();
  ASSERT_TRUE(Eventually([&] { return second_->first_rank() == 2; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_NE(group_.state(), GroupState::kServing);
  second_->SetState(worker::v1::WORKER_STATE_READY);
  EXPECT_TRUE(Serves());
}

TEST_F(JoinedLifeTest, TheLossOfOneLosesAllAndTheyJoinAgainUnderAHigherEpoch) {
  Supervise();
  ASSERT_TRUE(Serves());
  for (int round = 1; round <= 3; ++round) {
    const uint64_t epoch = first_->ownership().epoch();
    ShareWorker& lost = round % 2 == 0 ? *first_ : *second_;
    ShareWorker& survivor = round % 2 == 0 ? *second_ : *first_;
    const int leaves = survivor.leaves();
    lost.Die();
    ASSERT_TRUE(Loses(round));
    ASSERT_TRUE(Eventually([&] { return survivor.leaves() == leaves + 1; }))
        << "without waiting for the one that is gone";
    lost.Restart();
    ASSERT_TRUE(Serves(epoch));
    EXPECT_EQ(first_->ownership().epoch(), second_->ownership().epoch());
    EXPECT_EQ(first_->world_id(), second_->world_id());
    group_.JobCompleted();
  }
  EXPECT_EQ(group_.losses()[LossKind::kHeartbeat], 3);
}

TEST_F(JoinedLifeTest, AFailedWorkerLosesTheGroup) {
  Supervise();
  ASSERT_TRUE(Serves());
  second_->SetState(worker::v1::WORKER_STATE_FAILED);
  ASSERT_TRUE(Loses(1));
  EXPECT_EQ(group_.losses()[LossKind::kFailed], 1);
  EXPECT_THAT(group_.failure(), HasSubstr("worker 1 of 2 (second:1)"));
}

TEST_F(JoinedLifeTest, ABrokenDeviceOfOneTakesTheGroupOutOfServiceUntilItIsResumed) {
  Supervise();
  ASSERT_TRUE(Serves());
  const uint64_t epoch = first_->ownership().epoch();
  second_->Sicken(worker::v1::DEVICE_FAULT_KIND_XID, 79);
  ASSERT_TRUE(Eventually([&] { return group_.state() == GroupState::kFailed; }));
  EXPECT_THAT(group_.failure(), HasSubstr("broken: 0000:1B:00.0: code 79; worker 1 of 2"));
  EXPECT_EQ(group_.losses()[LossKind::kSickDevice], 1);
  second_->Restart();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(group_.state(), GroupState::kFailed) << "it waits to join, on the same device";
  EXPECT_EQ(first_->worlds_made(), 1);
  EXPECT_TRUE(group_.Resume());
  EXPECT_TRUE(Serves(epoch));
}

TEST_F(JoinedLifeTest, ADeviceIsToldByWhoeverHasItAndNotByWhoFailedFirst) {
  Supervise();
  ASSERT_TRUE(Serves());
  first_->SetState(worker::v1::WORKER_STATE_FAILED);
  second_->Sicken(worker::v1::DEVICE_FAULT_KIND_ECC, 1);
  ASSERT_TRUE(Eventually([&] { return group_.state() == GroupState::kFailed; }));
  EXPECT_EQ(group_.losses()[LossKind::kFailed], 0) << "one loss, and the device is why";
  EXPECT_THAT(group_.failure(), HasSubstr("broken: 0000:1B:00.0: code 1; worker 1 of 2"));
}

TEST_F(JoinedLifeTest, ADeviceThatIsToldAfterTheLossIsNotMissed) {
  Supervise();
  ASSERT_TRUE(Serves());
  first_->Die();
  ASSERT_TRUE(Loses(1));
  second_->Sicken(worker::v1::DEVICE_FAULT_KIND_XID, 48);
  ASSERT_TRUE(Eventually([&] { return group_.state() == GroupState::kFailed; }));
}

TEST_F(JoinedLifeTest, LearnsHowLongLoadingTakes) {
  rules_.phase_timeout = absl::Milliseconds(300);
  Supervise();
  ASSERT_TRUE(Serves());
  first_->loads = false;
  second_->Die();
  ASSERT_TRUE(Loses(1));
  second_->Restart();
  ASSERT_TRUE(Loses(2)) << "not after load_timeout";
  EXPECT_EQ(group_.losses()[LossKind::kLoadTimeout], 1);
  EXPECT_EQ(group_.faults().watchdog_trips.at("load"), 1);
  first_->loads = true;
  EXPECT_TRUE(Serves());
}

TEST_F(JoinedLifeTest, WhatTheDispatcherComplainsOfIsNotTakenOverAgain) {
  Supervise();
  ASSERT_TRUE(Serves());
  const uint64_t epoch = first_->ownership().epoch();
  group_.Complain(group_.WaitServing()->epoch, "job failed");
  ASSERT_TRUE(Loses(1));
  ASSERT_TRUE(Serves(epoch));
  EXPECT_EQ(first_->leaves(), 1) << "whole as they seem, they are begun anew";
  EXPECT_EQ(second_->leaves(), 1);
}

TEST_F(JoinedLifeTest, ANewFrontEndTakesAWholeGroupOver) {
  Supervise("one");
  ASSERT_TRUE(Serves());
  const uint64_t epoch = first_->ownership().epoch();
  supervisor_.reset();
  group_.SetLost("the front end ended");
  Supervise("two");
  ASSERT_TRUE(Serves(epoch));
  EXPECT_EQ(first_->worlds_made(), 1);
  EXPECT_EQ(first_->starts() + second_->starts(), 2) << "nobody loaded again";
  EXPECT_EQ(second_->ownership().owner(), "two");
}

TEST_F(JoinedLifeTest, ANewFrontEndEndsWhatIsNotWhole) {
  Supervise("one");
  ASSERT_TRUE(Serves());
  const uint64_t epoch = first_->ownership().epoch();
  supervisor_.reset();
  group_.SetLost("the front end ended");
  second_->Restart();
  Supervise("two");
  ASSERT_TRUE(Serves(epoch));
  EXPECT_EQ(first_->leaves(), 1);
  EXPECT_EQ(second_->leaves(), 0);
  EXPECT_EQ(first_->worlds_made(), 2);
}

TEST_F(JoinedLifeTest, AnotherOwnerIsNoticed) {
  Supervise();
  ASSERT_TRUE(Serves());
  for (const auto& worker : {first_, second_}) {
    worker::v1::JoinRequest taken;
    taken.mutable_ownership()->set_owner("thief");
    taken.mutable_ownership()->set_epoch(worker->ownership().epoch() + 1000);
    taken.set_previous_epoch(worker->ownership().epoch());
    taken.set_first_rank(worker->first_rank());
    ASSERT_TRUE(worker->Join(taken, absl::Seconds(1)).ok());
  }
  ASSERT_TRUE(Loses(1));
  EXPECT_THAT(group_.failure(), HasSubstr("another front end has taken it over"));
}

TEST_F(JoinedLifeTest, RanksThatDoNotAddUpAreRefusedInWords) {
  second_ = std::make_shared<ShareWorker>(1, 5);
  Supervise();
  ASSERT_TRUE(Loses(1));
  EXPECT_THAT(group_.failure(), HasSubstr("--group-ranks 5, but the 2 workers"));
  EXPECT_EQ(first_->worlds_made(), 0);
}

TEST_F(JoinedLifeTest, DifferentPlansAreRefusedInWords) {
  second_->plan = "plan-2";
  Supervise();
  ASSERT_TRUE(Loses(1));
  EXPECT_THAT(group_.failure(), HasSubstr("its plan is plan-2, that of worker 0 plan-1"));
}

TEST_F(JoinedLifeTest, BatchesAreRefusedInWords) {
  second_->batch_size = 4;
  Supervise();
  ASSERT_TRUE(Loses(1));
  EXPECT_THAT(group_.failure(), HasSubstr("its batch size is 4 (--batch-size), the "
                                          "configuration's is 1"));
}

TEST_F(JoinedLifeTest, WorkersThatDoNotLoadInTimeAreBegunAnew) {
  rules_.load_timeout = absl::Milliseconds(200);
  first_->loads = false;
  Supervise();
  ASSERT_TRUE(Loses(1));
  EXPECT_EQ(group_.losses()[LossKind::kLoadTimeout], 1);
  first_->loads = true;
  EXPECT_TRUE(Serves());
}

TEST_F(JoinedLifeTest, AJobThatSaysNothingLosesTheGroup) {
  rules_.stall_timeout = absl::Milliseconds(100);
  Supervise();
  ASSERT_TRUE(Serves());
  group_.SetRunning(group_.WaitServing()->epoch, {{MakeGeneration(TestSpec("a")), [] {}}});
  ASSERT_TRUE(Eventually([&] { return group_.losses()[LossKind::kStalled] == 1; }));
}

}  // namespace
}  // namespace patchflow
