#include "server/registry.h"

#include <gtest/gtest.h>

#include "tests/server/generations.h"

namespace patchflow {
namespace {

class RegistryTest : public ::testing::Test {
 protected:
  // As the server makes it: ending a generation tells the registry.
  Registry::Make Maker(const std::string& id, std::optional<uint64_t>* seed = nullptr) {
    return [this, id, seed](std::optional<uint64_t> drawn) {
      if (seed != nullptr) {
        *seed = drawn;
      }
      return MakeGeneration(TestSpec(id), [this](Generation& g) { registry_.Ended(g); });
    };
  }
  std::shared_ptr<Generation> Fresh(const std::string& id) {
    auto claimed = registry_.Claim({"", id}, "fingerprint", Maker(id));
    EXPECT_TRUE(claimed.ok() && claimed->fresh);
    return claimed->generation;
  }
  void EndWith(const std::string& id, const absl::Status& status) { Fresh(id)->End(status); }

  Clock::time_point now_ = Clock::now();
  Registry registry_{10000, absl::Seconds(300), [this] { return now_; }};
};

TEST_F(RegistryTest, JoinsALiveGeneration) {
  auto first = Fresh("a");
  auto again = registry_.Claim({"", "a"}, "fingerprint", Maker("a"));
  ASSERT_TRUE(again.ok());
  EXPECT_FALSE(again->fresh);
  EXPECT_EQ(again->generation, first);
  EXPECT_EQ(registry_.live(), 1U);
}

TEST_F(RegistryTest, RefusesAnIdWithOtherContent) {
  Fresh("a");
  auto other = registry_.Claim({"", "a"}, "another", Maker("a"));
  EXPECT_EQ(other.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReasonOf(other.status()), "REQUEST_ID_CONFLICT");
}

TEST_F(RegistryTest, ReplaysWhatSucceededOrCannotSucceed) {
  for (const absl::Status& status :
       {absl::OkStatus(), TestError(absl::StatusCode::kInternal, reason::kNonFiniteOutput),
        TestError(absl::StatusCode::kCancelled, reason::kCancelledByRequest)}) {
    const std::string id = status.ok() ? "ok" : ReasonOf(status);
    EndWith(id, status);
    auto again = registry_.Claim({"", id}, "fingerprint", Maker(id));
    ASSERT_TRUE(again.ok());
    EXPECT_FALSE(again->fresh) << id;
  }
}

TEST_F(RegistryTest, RunsAnewWhatARetryMayHealWithTheSameSeed) {
  for (const absl::Status& status :
       {TestError(absl::StatusCode::kUnavailable, reason::kDraining),
        TestError(absl::StatusCode::kDeadlineExceeded, reason::kDeadlineRunning),
        TestError(absl::StatusCode::kResourceExhausted, reason::kGpuOutOfMemory),
        TestError(absl::StatusCode::kCancelled, reason::kClientCancelled)}) {
    const std::string id = ReasonOf(status);
    EndWith(id, status);
    std::optional<uint64_t> seed;
    auto again = registry_.Claim({"", id}, "fingerprint", Maker(id, &seed));
    ASSERT_TRUE(again.ok());
    EXPECT_TRUE(again->fresh) << id;
    EXPECT_EQ(seed, 7U);
    again->generation->End(absl::OkStatus());
  }
  EXPECT_EQ(registry_.live(), 0U);
}

TEST_F(RegistryTest, RefusesWhatWasCancelledBeforeItCame) {
  EXPECT_EQ(*registry_.FindOrCancelAhead({"", "a"}), nullptr);
  auto late = registry_.Claim({"", "a"}, "fingerprint", Maker("a"));
  EXPECT_EQ(ReasonOf(late.status()), "CANCELLED_BY_REQUEST");
  now_ += std::chrono::seconds(300);
  EXPECT_TRUE(registry_.Claim({"", "a"}, "fingerprint", Maker("a")).ok());
}

TEST_F(RegistryTest, KeepsAtMost1024CancellationsAhead) {
  for (int i = 0; i < 1025; ++i) {
    EXPECT_TRUE(registry_.FindOrCancelAhead({"", "id" + std::to_string(i)}).ok());
  }
  EXPECT_TRUE(registry_.Claim({"", "id0"}, "fingerprint", Maker("id0")).ok());
  EXPECT_FALSE(registry_.Claim({"", "id1"}, "fingerprint", Maker("id1")).ok());
}

TEST_F(RegistryTest, ForgetsByAge) {
  EndWith("a", absl::OkStatus());
  now_ += std::chrono::seconds(299);
  EXPECT_TRUE(registry_.Find({"", "a"}).ok());
  now_ += std::chrono::seconds(1);
  EXPECT_EQ(ReasonOf(registry_.Find({"", "a"}).status()), "GENERATION_NOT_FOUND");
  EXPECT_EQ(registry_.kept_bytes(), 0U);
}

TEST_F(RegistryTest, ForgetsTheOldestWhenItHoldsTooMuch) {
  for (const char* id : {"a", "b", "c"}) {
    auto generation = Fresh(id);
    generation->Start();
    AddImage(*generation, 0, 3000);
  }
  EXPECT_FALSE(registry_.Find({"", "a"}).ok());
  EXPECT_TRUE(registry_.Find({"", "b"}).ok());
  EXPECT_TRUE(registry_.Find({"", "c"}).ok());
  EXPECT_LE(registry_.kept_bytes(), 10000U);
}

TEST_F(RegistryTest, NeverForgetsTheLiving) {
  auto live = Fresh("live");
  for (int i = 0; i < 100; ++i) {
    EndWith("id" + std::to_string(i), absl::OkStatus());
  }
  now_ += std::chrono::hours(1);
  EXPECT_TRUE(registry_.Find({"", "live"}).ok());
  EXPECT_EQ(registry_.live(), 1U);
}

TEST_F(RegistryTest, ForgetsWhatWasNeverAdmitted) {
  auto refused = Fresh("a");
  refused->End(TestError(absl::StatusCode::kResourceExhausted, reason::kQueueFull));
  registry_.Forget(*refused);
  EXPECT_FALSE(registry_.Find({"", "a"}).ok());
  EXPECT_EQ(registry_.live(), 0U);
  EXPECT_EQ(registry_.kept(), 0U);
}

TEST_F(RegistryTest, RefusesPoisonForTenMinutes) {
  registry_.Poison("fingerprint");
  EXPECT_EQ(ReasonOf(registry_.Claim({"", "a"}, "fingerprint", Maker("a")).status()),
            "POISON_REQUEST");
  EXPECT_TRUE(registry_.Claim({"", "b"}, "another", Maker("b")).ok());
  now_ += std::chrono::minutes(10);
  EXPECT_TRUE(registry_.Claim({"", "a"}, "fingerprint", Maker("a")).ok());
}

// Before it is a store with a generation that has ended, "stored", which can't be read at first.
class StoringRegistryTest : public RegistryTest {
 protected:
  StoringRegistryTest() {
    registry_.SetRecall(
        [this](const GenerationKey& key) -> absl::StatusOr<std::shared_ptr<Generation>> {
          if (!reads_) {
            return stuck_;
          }
          if (key.request_id != "stored") {
            return nullptr;
          }
          auto generation = MakeGeneration(TestSpec("stored"));
          generation->End(absl::OkStatus());
          return generation;
        });
  }
  const absl::Status stuck_ = TestError(absl::StatusCode::kUnavailable, reason::kStoreFailed);
  bool reads_ = false;
};

TEST_F(StoringRegistryTest, KnowsNothingWhileWhatEndedBeforeCannotBeRead) {
  EXPECT_EQ(registry_.Find({"", "stored"}).status(), stuck_) << "not NOT_FOUND";
  EXPECT_EQ(registry_.Claim({"", "stored"}, "fingerprint", Maker("stored")).status(), stuck_)
      << "it is not made again";
  reads_ = true;
  EXPECT_TRUE(registry_.Find({"", "stored"}).ok());
  EXPECT_EQ(registry_.Find({"", "other"}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(registry_.Claim({"", "stored"}, "fingerprint", Maker("stored"))->fresh);
}

TEST_F(StoringRegistryTest, CancelsAheadOnlyWhatDidNotEndBefore) {
  EXPECT_EQ(registry_.FindOrCancelAhead({"", "stored"}).status(), stuck_);
  reads_ = true;
  const auto found = registry_.FindOrCancelAhead({"", "stored"});
  ASSERT_TRUE(found.ok() && *found != nullptr);
  EXPECT_EQ((*found)->standing().state, v1::STATE_SUCCEEDED);
  auto replayed = registry_.Claim({"", "stored"}, "fingerprint", Maker("stored"));
  ASSERT_TRUE(replayed.ok()) << replayed.status();
  EXPECT_EQ(replayed->generation, *found);
}

TEST_F(RegistryTest, GivesEachOwnerItsOwnIds) {
  ASSERT_TRUE(registry_.Claim({"alice", "a"}, "fingerprint", Maker("a")).ok());
  EXPECT_EQ(ReasonOf(registry_.Find({"bob", "a"}).status()), "GENERATION_NOT_FOUND");
  auto other = registry_.Claim({"bob", "a"}, "another", Maker("a"));
  ASSERT_TRUE(other.ok()) << "no conflict between owners";
  EXPECT_TRUE(other->fresh);
}

TEST_F(RegistryTest, MakesOneGenerationForManyClaimsAtOnce) {
  std::atomic<int> fresh = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 100; ++k) {
        auto claimed = registry_.Claim({"", "id" + std::to_string(k)}, "fingerprint", Maker("x"));
        fresh += claimed.ok() && claimed->fresh ? 1 : 0;
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(fresh, 100);
}

}  // namespace
}  // namespace patchflow
