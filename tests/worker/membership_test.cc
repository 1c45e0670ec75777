#include "worker/membership.h"

#include <gtest/gtest.h>

#include "engine/engine.h"

namespace patchflow {
namespace {

const Ownership kFirst{"front end a", 10};
const Ownership kNext{"front end b", 11};

bool IsStale(const absl::Status& status) { return EngineReasonOf(status) == "STALE_EPOCH"; }

class MembershipTest : public ::testing::Test {
 protected:
  void Join() { ASSERT_TRUE(membership_.Join(kFirst, {"id", 2}).ok()); }
  Membership membership_{2, 6};
};

TEST_F(MembershipTest, TakesItsPlaceOnce) {
  EXPECT_FALSE(membership_.place().has_value());
  Join();
  EXPECT_EQ(membership_.place()->first_rank, 2);
  EXPECT_EQ(membership_.ownership(), kFirst);
  EXPECT_TRUE(IsStale(membership_.Join(kNext, {"other", 2})));
  EXPECT_EQ(membership_.place()->world_id, "id");
}

TEST_F(MembershipTest, RefusesAPlaceThatTheGroupDoesNotHave) {
  EXPECT_TRUE(absl::IsInvalidArgument(membership_.Join(kFirst, {"id", 5})));
  EXPECT_TRUE(absl::IsInvalidArgument(membership_.Join(kFirst, {"id", -1})));
  EXPECT_TRUE(IsStale(membership_.Join({"front end", 0}, {"id", 0})));
  EXPECT_TRUE(membership_.Join(kFirst, {"id", 4}).ok());
}

TEST_F(MembershipTest, ObeysNobodyBeforeItHasJoined) {
  EXPECT_TRUE(IsStale(membership_.CheckOwner({})));
  EXPECT_TRUE(IsStale(membership_.Hold({}, 1).status()));
  EXPECT_TRUE(IsStale(membership_.CheckLeave(kFirst)));
}

TEST_F(MembershipTest, ObeysOneOwnerOfOneEpoch) {
  Join();
  for (const Ownership& stranger :
       {Ownership{"front end a", 9}, Ownership{"front end b", 10}, kNext, Ownership{}}) {
    EXPECT_TRUE(IsStale(membership_.Begin(stranger, 1).status()));
    EXPECT_TRUE(IsStale(membership_.Hold(stranger, 1).status()));
    EXPECT_TRUE(IsStale(membership_.StopAt(stranger, 1, 0)));
  }
  EXPECT_TRUE(membership_.Begin(kFirst, 1).ok());
}

TEST_F(MembershipTest, ALaterEpochMayEndItAndAnEarlierOneNot) {
  Join();
  EXPECT_TRUE(membership_.CheckLeave(kFirst).ok());
  EXPECT_TRUE(membership_.CheckLeave(kNext).ok());
  EXPECT_TRUE(IsStale(membership_.CheckLeave({"front end b", 10})));
  EXPECT_TRUE(IsStale(membership_.CheckLeave({"front end a", 9})));
}

TEST_F(MembershipTest, ANewOwnerTakesOverAndFencesTheOldOneOff) {
  EXPECT_TRUE(IsStale(membership_.TakeOver(kNext, 0, 0))) << "there is nothing to take over";
  Join();
  ASSERT_TRUE(membership_.Begin(kFirst, 7).ok());
  EXPECT_TRUE(IsStale(membership_.TakeOver(kNext, 9, 2))) << "another epoch";
  EXPECT_TRUE(IsStale(membership_.TakeOver(kNext, 10, 0))) << "another place";
  EXPECT_TRUE(IsStale(membership_.TakeOver({"front end b", 10}, 10, 2))) << "no later epoch";
  ASSERT_TRUE(membership_.TakeOver(kNext, 10, 2).ok());
  EXPECT_TRUE(IsStale(membership_.Begin(kFirst, 8).status()));
  membership_.End(7);  // Of the old owner's last job.
  EXPECT_TRUE(membership_.Begin(kNext, 1).ok()) << "jobs are counted anew";
  EXPECT_EQ(*membership_.Hold(kNext, 1), -1) << "it is not over";
}

TEST_F(MembershipTest, JobsAreNumberedUpwards) {
  Join();
  ASSERT_TRUE(membership_.Begin(kFirst, 1).ok());
  EXPECT_TRUE(IsStale(membership_.Begin(kFirst, 1).status()));
  EXPECT_TRUE(membership_.Begin(kFirst, 3).ok());
  EXPECT_TRUE(IsStale(membership_.Begin(kFirst, 2).status()));
}

TEST_F(MembershipTest, AJobIsHeldWhereverItIs) {
  Join();
  EXPECT_EQ(*membership_.Hold(kFirst, 1), -1) << "it has not come yet";
  EXPECT_TRUE(membership_.StopAt(kFirst, 1, 2).ok());
  auto agreement = *membership_.Begin(kFirst, 1);
  EXPECT_TRUE(agreement->Continue(0));
  EXPECT_TRUE(agreement->Continue(1));
  EXPECT_FALSE(agreement->Continue(2)) << "what was said before it came holds";
  membership_.End(1);
  EXPECT_EQ(*membership_.Hold(kFirst, 1), JobAgreement::kNever) << "it is over";
  EXPECT_TRUE(membership_.StopAt(kFirst, 1, 0).ok());
}

TEST_F(MembershipTest, HoldingWhatNeverComesTakesNoMemory) {
  Join();
  auto running = *membership_.Begin(kFirst, 1);
  for (int job = 2; job < 1000; ++job) EXPECT_TRUE(membership_.Hold(kFirst, job).ok());
  EXPECT_TRUE(running->Continue(0));
  EXPECT_EQ(*membership_.Hold(kFirst, 1), 0) << "the one that runs is known still";
}

}  // namespace
}  // namespace patchflow
