#include "server/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "server/stored_spec.h"
#include "tests/server/generations.h"
#include "tests/server/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

class StoreTest : public ::testing::Test {
 protected:
  StoreTest() { config_.directory = folder_.path("store"); }

  std::unique_ptr<Store> Open() {
    auto store = Store::Open(config_);
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  // Accepted and followed.
  static std::shared_ptr<Generation> Detached(Store& store, GenerationSpec spec) {
    auto generation = MakeGeneration(std::move(spec));
    EXPECT_TRUE(store.Accept(generation, absl::InfiniteDuration()).ok());
    store.Follow(generation);
    EXPECT_TRUE(generation->Start());
    return generation;
  }
  static std::shared_ptr<Generation> Finished(Store& store, const std::string& id,
                                              size_t bytes = 1000) {
    auto generation = Detached(store, TestSpec(id));
    AddImage(*generation, 0, bytes);
    return generation;
  }

  ScratchFolder folder_;
  StoreConfig config_;
};

TEST_F(StoreTest, GivesBackWhatHadNotEnded) {
  GenerationSpec spec = TestSpec("a", 2);
  spec.owner = {"studio", "studio", false};
  spec.negative_prompt = "blue";
  spec.embed_metadata = true;
  spec.priority = v1::PRIORITY_LOW;
  spec.ranks = 4;
  spec.fingerprint = std::string("\0\xff\x80", 3);
  {
    auto store = Open();
    auto generation = MakeGeneration(spec);
    ASSERT_TRUE(store->Accept(generation, absl::Seconds(90)).ok());
  }
  auto unfinished = Open()->Unfinished();
  ASSERT_TRUE(unfinished.ok());
  ASSERT_EQ(unfinished->size(), 1U);
  const StoredGeneration& stored = unfinished->front();
  EXPECT_EQ(stored.spec.request_id, "a");
  EXPECT_EQ(stored.spec.owner.name, "studio");
  EXPECT_FALSE(stored.spec.owner.high_priority);
  EXPECT_EQ(stored.spec.prompt, "a red circle");
  EXPECT_EQ(stored.spec.negative_prompt, "blue");
  EXPECT_EQ(stored.spec.fingerprint, spec.fingerprint);
  EXPECT_TRUE(stored.spec.embed_metadata);
  EXPECT_EQ(stored.spec.priority, v1::PRIORITY_LOW);
  EXPECT_EQ(stored.spec.ranks, 4);
  EXPECT_EQ(stored.spec.accepted.plan_digest(), "plan-1");
  EXPECT_EQ(stored.spec.params().seed(), 7U);
  EXPECT_EQ(stored.timeout, absl::Seconds(90));
  EXPECT_FALSE(stored.end.has_value());
  ASSERT_EQ(stored.images.size(), 2U);
  EXPECT_EQ(stored.images[0], nullptr);
}

TEST_F(StoreTest, KeepsTheImagesMadeSoFar) {
  {
    auto store = Open();
    auto generation = Detached(*store, TestSpec("a", 3));
    AddImage(*generation, 1);
  }
  auto unfinished = Open()->Unfinished();
  ASSERT_TRUE(unfinished.ok());
  ASSERT_EQ(unfinished->size(), 1U);
  EXPECT_EQ(unfinished->front().images[0], nullptr);
  ASSERT_NE(unfinished->front().images[1], nullptr);
  EXPECT_EQ(unfinished->front().images[1]->data, TestImage(1)->data);
  EXPECT_EQ(unfinished->front().images[1]->header.sha256(), TestImage(1)->header.sha256());
}

TEST_F(StoreTest, GivesBackTheEndWithItsImages) {
  v1::Completed completed;
  {
    auto store = Open();
    auto generation = Finished(*store, "a");
    completed = generation->completed();
  }
  auto store = Open();
  EXPECT_TRUE(store->Unfinished()->empty());
  auto stored = store->FindEnded({"", "a"});
  ASSERT_TRUE(stored.has_value());
  EXPECT_TRUE(stored->end->ok());
  EXPECT_EQ(stored->images[0]->data, TestImage(0)->data);
  EXPECT_EQ(stored->completed.SerializeAsString(), completed.SerializeAsString());
  EXPECT_FALSE(store->FindEnded({"other", "a"}).has_value());
}

TEST_F(StoreTest, GivesBackAnErrorWithItsDetails) {
  const absl::Status error =
      WithRetry(TestError(absl::StatusCode::kInternal, reason::kPoisonRequest), absl::Seconds(3));
  {
    auto store = Open();
    Detached(*store, TestSpec("a"))->End(error);
  }
  auto stored = Open()->FindEnded({"", "a"});
  ASSERT_TRUE(stored.has_value());
  EXPECT_EQ(*stored->end, error);
  EXPECT_EQ(RetryDelayOf(*stored->end), absl::Seconds(3));
}

TEST_F(StoreTest, LeavesToTheNextProcessWhatThisOneCouldNotMake) {
  {
    auto store = Open();
    Detached(*store, TestSpec("a"))
        ->End(TestError(absl::StatusCode::kUnavailable, reason::kDraining));
  }
  auto store = Open();
  EXPECT_EQ(store->Unfinished()->size(), 1U);
  EXPECT_FALSE(store->FindEnded({"", "a"}).has_value());
}

TEST_F(StoreTest, ReplacesWhatEnded) {
  auto store = Open();
  Detached(*store, TestSpec("a"))->End(TestError(absl::StatusCode::kUnavailable, "STARTING"));
  ASSERT_TRUE(Eventually([&] { return store->FindEnded({"", "a"}).has_value(); }));
  Finished(*store, "a");
  EXPECT_TRUE(Eventually([&] {
    auto stored = store->FindEnded({"", "a"});
    return stored.has_value() && stored->end->ok();
  }));
  EXPECT_EQ(store->figures().generations, 1);
}

TEST_F(StoreTest, ForgetsWhatIsDropped) {
  auto store = Open();
  ASSERT_TRUE(store->Accept(MakeGeneration(TestSpec("a")), absl::InfiniteDuration()).ok());
  store->Drop({"", "a"});
  EXPECT_TRUE(store->Unfinished()->empty());
  EXPECT_EQ(store->figures().bytes, 0);
}

TEST_F(StoreTest, DropsTheOldestBeyondItsBytesButNothingUnfinished) {
  config_.max_bytes = 100000;
  auto store = Open();
  auto unfinished = Detached(*store, TestSpec("unfinished"));
  for (int i = 0; i < 5; ++i) {
    const std::string id = absl::StrCat("id", i);
    Finished(*store, id, 40000);
    ASSERT_TRUE(Eventually([&] { return store->FindEnded({"", id}).has_value(); })) << id;
  }
  EXPECT_LE(store->figures().bytes, 100000);
  EXPECT_FALSE(store->FindEnded({"", "id2"}).has_value());
  EXPECT_TRUE(store->FindEnded({"", "id4"}).has_value());
  EXPECT_EQ(store->Unfinished()->size(), 1U);
}

TEST_F(StoreTest, DropsWhatIsTooOld) {
  { Finished(*Open(), "a"); }
  config_.max_age = absl::Nanoseconds(1);
  EXPECT_EQ(Open()->figures().generations, 0);
}

TEST_F(StoreTest, IsHeldByOneProcessAtATime) {
  auto store = Open();
  const auto second = Store::Open(config_).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.message()), HasSubstr("is held by another server"));
  store.reset();
  EXPECT_TRUE(Store::Open(config_).ok());
}

TEST_F(StoreTest, NamesADirectoryThatCannotBeUsed) {
  folder_.Write("file", "x");
  config_.directory = folder_.path("file/store");
  EXPECT_THAT(std::string(Store::Open(config_).status().message()),
              HasSubstr("store.directory: " + config_.directory));
}

TEST_F(StoreTest, RefusesAFileThatIsNoDatabase) {
  folder_.Write("store/generations.sqlite", std::string(5000, 'x'));
  EXPECT_THAT(std::string(Store::Open(config_).status().message()),
              HasSubstr("generations.sqlite"));
}

TEST(StoredSpecTest, RefusesBytesThatAreNone) {
  for (const std::string bytes : {"", "nonsense", "\xa0"}) {
    EXPECT_EQ(ParseSpec(bytes).status().code(), absl::StatusCode::kDataLoss);
  }
}

}  // namespace
}  // namespace patchflow
