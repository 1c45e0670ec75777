#include "server/fair_share.h"

#include <gtest/gtest.h>

namespace patchflow {
namespace {

TEST(FairShareTest, AddsUpWhatAClientWasServed) {
  FairShare shares;
  shares.Enter("a");
  shares.Enter("a");
  shares.Serve("a", 3);
  EXPECT_EQ(shares.ShareOf("a"), 3);
}

TEST(FairShareTest, LetsANewClientStartWhereTheLastServedStood) {
  FairShare shares;
  for (int i = 0; i < 3; ++i) {
    shares.Enter("a");
    shares.Serve("a", 10);
  }
  EXPECT_EQ(shares.ShareOf("b"), 20) << "a stood at 20 when it was served last";
}

TEST(FairShareTest, SavesUpNothingForTheIdle) {
  FairShare shares;
  shares.Enter("idle");
  shares.Serve("idle", 1);
  for (int i = 0; i < 5; ++i) {
    shares.Enter("busy");
    shares.Serve("busy", 10);
  }
  shares.Enter("idle");
  EXPECT_EQ(shares.ShareOf("idle"), 40);
}

TEST(FairShareTest, ForgetsTheIdle) {
  FairShare shares;
  for (int i = 0; i < 10000; ++i) {
    const std::string client = "client" + std::to_string(i);
    shares.Enter(client);
    shares.Serve(client, 1);
  }
  EXPECT_LE(shares.clients(), 4096U);
}

}  // namespace
}  // namespace patchflow
