#include "server/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "server/sqlite.h"
#include "server/stored_spec.h"
#include "server/version.h"
#include "tests/server/store_fixture.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

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
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_TRUE(stored->end->ok());
  EXPECT_EQ(stored->images[0]->data, TestImage(0)->data);
  EXPECT_EQ(stored->completed.SerializeAsString(), completed.SerializeAsString());
  EXPECT_FALSE(store->FindEnded({"other", "a"}).ok());
}

TEST_F(StoreTest, GivesBackAnErrorWithItsDetails) {
  const absl::Status error =
      WithRetry(TestError(absl::StatusCode::kInternal, reason::kPoisonRequest), absl::Seconds(3));
  {
    auto store = Open();
    Detached(*store, TestSpec("a"))->End(error);
  }
  auto stored = Open()->FindEnded({"", "a"});
  ASSERT_TRUE(stored.ok()) << stored.status();
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
  EXPECT_FALSE(store->FindEnded({"", "a"}).ok());
}

TEST_F(StoreTest, ReplacesWhatEnded) {
  auto store = Open();
  Detached(*store, TestSpec("a"))->End(TestError(absl::StatusCode::kUnavailable, "STARTING"));
  ASSERT_TRUE(Eventually([&] { return store->FindEnded({"", "a"}).ok(); }));
  Finished(*store, "a");
  EXPECT_TRUE(Eventually([&] {
    auto stored = store->FindEnded({"", "a"});
    return stored.ok() && stored->end->ok();
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
    ASSERT_TRUE(Eventually([&] { return store->FindEnded({"", id}).ok(); })) << id;
  }
  EXPECT_LE(store->figures().bytes, 100000);
  EXPECT_FALSE(store->FindEnded({"", "id2"}).ok());
  EXPECT_TRUE(store->FindEnded({"", "id4"}).ok());
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

TEST_F(StoreTest, KeepsImagesInFilesAndRemovesThemWithTheirRows) {
  config_.max_bytes = 1500;
  auto store = Open();
  Finished(*store, "a");
  ASSERT_TRUE(Eventually([&] { return store->FindEnded({"", "a"}).ok(); }));
  EXPECT_EQ(Files().size(), 1U);
  EXPECT_EQ(folder_.Read("store/images/" + Files().front()), TestImage(0)->data);
  Finished(*store, "b");
  EXPECT_TRUE(Eventually([&] { return store->FindEnded({"", "b"}).ok() && Files().size() == 1; }));
  EXPECT_FALSE(store->FindEnded({"", "a"}).ok());
}

TEST_F(StoreTest, RemovesFilesThatNoRowNames) {
  { Finished(*Open(), "a"); }
  folder_.Write("store/images/1-0.part", "half of an im");
  folder_.Write("store/images/77-0", "an image whose row was not written");
  auto store = Open();
  EXPECT_EQ(Files().size(), 1U);
  EXPECT_TRUE(store->FindEnded({"", "a"}).ok());
}

TEST_F(StoreTest, DoesNotGiveBackAnImageThatIsNotWhatWasStored) {
  { Finished(*Open(), "a"); }
  folder_.Write("store/images/" + Files().front(), std::string(1000, 'z'));
  EXPECT_EQ(Open()->FindEnded({"", "a"}).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(StoreTest, StoresAnewAnImageThatWasLostBeforeTheEnd) {
  { AddImage(*Detached(*Open(), TestSpec("a", 2)), 0); }
  std::filesystem::remove(folder_.path("store/images/" + Files().front()));
  {
    auto store = Open();
    auto unfinished = store->Unfinished();
    ASSERT_TRUE(unfinished.ok());
    EXPECT_EQ(unfinished->front().images[0], nullptr);
    auto again = MakeGeneration(TestSpec("a", 2));
    store->Follow(again);
    ASSERT_TRUE(again->Start());
    AddImage(*again, 0);
    AddImage(*again, 1);
  }
  auto stored = Open()->FindEnded({"", "a"});
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_EQ(stored->images[0]->data, TestImage(0)->data);
  EXPECT_EQ(stored->images[1]->data, TestImage(1)->data);
}

TEST_F(StoreTest, DropsWhatIsTooOldWithoutBeingAsked) {
  config_.max_age = absl::Milliseconds(300);
  auto store = Open();
  Finished(*store, "a");
  ASSERT_TRUE(Eventually([&] { return Files().size() == 1; }));
  EXPECT_TRUE(Eventually([&] { return Files().empty() && store->figures().generations == 0; }));
}

TEST_F(StoreTest, ReadsWhatAnEarlierVersionKeptInTheDatabase) {
  { Finished(*Open(), "a"); }
  const std::string file = folder_.path("store/generations.sqlite");
  {  // As schema 1 had it.
    auto database = OpenSql(file);
    ASSERT_TRUE(database.ok());
    ASSERT_TRUE(RunSql(database->get(), "ALTER TABLE images ADD COLUMN data BLOB").ok());
    ASSERT_TRUE(SqlStatement(database->get(), "UPDATE images SET data = ?")
                    .Bind(TestImage(0)->data)
                    .Run()
                    .ok());
    ASSERT_TRUE(RunSql(database->get(), "PRAGMA user_version = 1").ok());
  }
  std::filesystem::remove_all(folder_.path("store/images"));
  for (int i = 0; i < 2; ++i) {
    auto stored = Open()->FindEnded({"", "a"});
    ASSERT_TRUE(stored.ok()) << stored.status();
    EXPECT_EQ(stored->images[0]->data, TestImage(0)->data);
  }
  EXPECT_EQ(Files().size(), 1U);
}

// Names of files and folders below `folder`, itself among them, that not their owner alone may use.
std::vector<std::string> OpenToOthers(const std::string& folder) {
  std::vector<std::string> open;
  const auto look = [&](const std::filesystem::path& path) {
    struct stat found {};
    EXPECT_EQ(stat(path.c_str(), &found), 0) << path;
    if ((found.st_mode & 0777) != (S_ISDIR(found.st_mode) ? 0700U : 0600U)) {
      open.push_back(path.filename().string());
    }
  };
  look(folder);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    look(entry.path());
  }
  return open;
}

// The process makes files that all may read, as a rule.
class StoreModeTest : public StoreTest {
 protected:
  StoreModeTest() : before_(umask(0022)) {}
  ~StoreModeTest() override { umask(before_); }

 private:
  const mode_t before_;
};

TEST_F(StoreModeTest, IsForItsOwnerAloneWhichHoldsPrompts) {
  config_.directory = folder_.path("above/store/");
  const auto store = Open();
  Finished(*store, "a");
  ASSERT_TRUE(Eventually([&] { return store->FindEnded({"", "a"}).ok(); }));
  const std::string folder = folder_.path("above/store");
  for (const char* file :
       {"generations.sqlite", "generations.sqlite-wal", "generations.sqlite-shm"}) {
    EXPECT_TRUE(std::filesystem::exists(folder + "/" + file)) << file;
  }
  EXPECT_THAT(OpenToOthers(folder), ::testing::IsEmpty());
  EXPECT_EQ(umask(0022), 0022U) << "of the process, whose listeners may be for others";
}

TEST_F(StoreModeTest, ClosesWhatAnEarlierVersionLeftOpen) {
  const auto store = Open();
  Finished(*store, "a");
  ASSERT_TRUE(Eventually([&] { return store->FindEnded({"", "a"}).ok(); }));
  // As a process leaves it that was killed.
  std::filesystem::copy(config_.directory, folder_.path("left"),
                        std::filesystem::copy_options::recursive);
  config_.directory = folder_.path("left");
  chmod(config_.directory.c_str(), 0700);
  chmod(folder_.path("left/images").c_str(), 0700);
  for (const char* suffix : {"", "-wal", "-shm"}) {
    const std::string file = config_.directory + "/generations.sqlite" + suffix;
    ASSERT_EQ(chmod(file.c_str(), 0664), 0) << file;
  }
  const auto again = Open();
  EXPECT_TRUE(again->FindEnded({"", "a"}).ok());
  EXPECT_THAT(OpenToOthers(config_.directory), ::testing::IsEmpty());
}

TEST_F(StoreTest, RefusesWhatALaterVersionWrote) {
  { Open(); }
  {
    auto database = OpenSql(folder_.path("store/generations.sqlite"));
    ASSERT_TRUE(RunSql(database->get(), "PRAGMA user_version = 3").ok());
  }
  EXPECT_THAT(std::string(Store::Open(config_).status().message()), HasSubstr("schema 3"));
}

TEST_F(StoreTest, GivesBackTheAttempt) {
  {
    auto store = Open();
    Detached(*store, TestSpec("first"));
    Detached(*store, TestSpec("third"))->Requeue();
  }
  const auto attempts = [](Store& store) {
    std::map<std::string, int> attempts;
    const auto unfinished = store.Unfinished();
    for (const StoredGeneration& stored : *unfinished) {
      attempts[stored.spec.request_id] = stored.attempt;
    }
    return attempts;
  };
  {
    auto store = Open();
    EXPECT_EQ(attempts(*store), (std::map<std::string, int>{{"first", 1}, {"third", 2}}));
    auto again = MakeGeneration(TestSpec("third"));  // As it is restored.
    again->RestoreImages({nullptr}, 3);
    store->Follow(again);
  }
  EXPECT_EQ(attempts(*Open())["third"], 3);
}

TEST_F(StoreTest, ReadsATableWithoutAttempts) {
  { Detached(*Open(), TestSpec("a")); }
  {
    auto database = OpenSql(folder_.path("store/generations.sqlite"));
    ASSERT_TRUE(database.ok());
    ASSERT_TRUE(RunSql(database->get(), "ALTER TABLE generations DROP COLUMN attempt").ok());
  }
  auto unfinished = Open()->Unfinished();
  ASSERT_TRUE(unfinished.ok()) << unfinished.status();
  EXPECT_EQ(unfinished->front().attempt, 1);
}

TEST(StoredSpecTest, ReadsWhatAnEarlierVersionWrote) {
  GenerationSpec spec = TestSpec("a");
  spec.provenance_mark = false;
  spec.software = "patchflow 0";
  const std::string bytes = SerializeSpec(spec);
  EXPECT_FALSE(ParseSpec(bytes)->provenance_mark);
  EXPECT_EQ(ParseSpec(bytes)->software, "patchflow 0");
  auto stored = nlohmann::json::from_cbor(bytes);
  stored.erase("provenance_mark");
  stored.erase("software");
  const std::vector<uint8_t> old = nlohmann::json::to_cbor(stored);
  auto parsed = ParseSpec({old.begin(), old.end()});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->provenance_mark);
  EXPECT_EQ(parsed->software, SoftwareName());
}

TEST(StoredSpecTest, RefusesBytesThatAreNone) {
  for (const std::string bytes : {"", "nonsense", "\xa0"}) {
    EXPECT_EQ(ParseSpec(bytes).status().code(), absl::StatusCode::kDataLoss);
  }
}

}  // namespace
}  // namespace patchflow
