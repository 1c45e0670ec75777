// The store on disks that are stuck or full, and of processes that are killed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <functional>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/sqlite.h"
#include "tests/server/store_fixture.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

class StoreDiskTest : public StoreTest {};

// Somebody else holds the database: every write waits.
class StuckStoreTest : public StoreTest {
 protected:
  StuckStoreTest() { config_.max_wait = absl::Milliseconds(200); }

  void Hold() {
    auto database = OpenSql(folder_.path("store/generations.sqlite"));
    ASSERT_TRUE(database.ok());
    other_ = *std::move(database);
    ASSERT_TRUE(RunSql(other_.get(), "BEGIN IMMEDIATE").ok());
  }
  void Release() { other_.reset(); }
  static double Seconds(const std::function<void()>& what) {
    const auto began = std::chrono::steady_clock::now();
    what();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  }

  SqlDatabase other_;
};

TEST_F(StuckStoreTest, RefusesInBoundedTimeAndKeepsNothingOfWhatItRefused) {
  auto store = Open();
  ASSERT_TRUE(store->Accept(MakeGeneration(TestSpec("before")), absl::InfiniteDuration()).ok());
  Hold();
  const auto accept = [&](const char* id) {
    const absl::Status status =
        store->Accept(MakeGeneration(TestSpec(id)), absl::InfiniteDuration());
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << id;
    EXPECT_THAT(std::string(status.message()), HasSubstr("did not answer within 200ms"));
  };
  const double first = Seconds([&] { accept("first"); });
  EXPECT_GE(first, 0.15);
  EXPECT_LT(first, 1.5);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_LT(Seconds([&] { accept("second"); }), 0.15) << "nobody waits for a thread that is stuck";
  EXPECT_LT(
      Seconds([&] {
        EXPECT_EQ(store->FindEnded({"", "none"}).status().code(), absl::StatusCode::kNotFound);
      }),
      0.15);
  EXPECT_EQ(store->FindEnded({"", "before"}).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_LT(Seconds([&] { store->figures(); }), 0.1);
  Release();
  ASSERT_TRUE(Eventually([&] {
    return store->Accept(MakeGeneration(TestSpec("after")), absl::InfiniteDuration()).ok();
  }));
  auto unfinished = store->Unfinished();
  ASSERT_TRUE(unfinished.ok());
  ASSERT_EQ(unfinished->size(), 2U);
  EXPECT_EQ((*unfinished)[0].spec.request_id, "before");
  EXPECT_EQ((*unfinished)[1].spec.request_id, "after");
}

// A limit of the process stands in for the end of a disk.
TEST_F(StoreDiskTest, RefusesOnAFullDiskAndTakesAgainOnceThereIsRoom) {
  auto store = Open();
  ASSERT_TRUE(store->Accept(MakeGeneration(TestSpec("before")), absl::InfiniteDuration()).ok());
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  auto* handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit none{1, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &none);
  const absl::Status full =
      store->Accept(MakeGeneration(TestSpec("full")), absl::InfiniteDuration());
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(full.code(), absl::StatusCode::kUnavailable);
  EXPECT_GE(store->figures().failures, 1);
  EXPECT_EQ(store->figures().generations, 1);
  EXPECT_TRUE(store->Accept(MakeGeneration(TestSpec("after")), absl::InfiniteDuration()).ok());
  EXPECT_EQ(store->Unfinished()->size(), 2U);
}

TEST_F(StoreDiskTest, WritesAgainWhatAFullDiskDidNotTake) {
  auto store = Open();
  auto generation = Detached(*store, TestSpec("a"));
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  auto* handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit none{1, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &none);
  AddImage(*generation, 0);
  EXPECT_TRUE(Eventually([&] { return store->figures().failures > 0; }));
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(Files().empty()) << "nothing half-written stays";
  EXPECT_TRUE(Eventually([&] { return store->FindEnded({"", "a"}).ok(); }));
}

TEST_F(StoreDiskTest, LosesNothingWhenItIsKilledAtAnyMoment) {
  std::set<std::string> accepted;
  for (int round = 0; round < 8; ++round) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      auto store = Store::Open(config_);
      for (int i = 0; store.ok(); ++i) {
        const std::string id = absl::StrCat("r", round, "-", i);
        auto generation = MakeGeneration(TestSpec(id));
        if ((*store)->Accept(generation, absl::InfiniteDuration()).ok()) {
          (void)!write(ends[1], (id + "\n").data(), id.size() + 1);
        }
        (*store)->Follow(generation);
        generation->Start();
        AddImage(*generation, 0, 100000);
      }
      _exit(1);
    }
    close(ends[1]);
    std::this_thread::sleep_for(std::chrono::milliseconds(60 + 37 * round));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    std::string text;
    std::string part(1 << 16, ' ');
    for (ssize_t got = 0; (got = read(ends[0], part.data(), part.size())) > 0;) {
      text.append(part, 0, static_cast<size_t>(got));
    }
    close(ends[0]);
    for (const absl::string_view id : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      accepted.insert(std::string(id));
    }
  }
  ASSERT_GT(accepted.size(), 8U);
  auto store = Open();
  std::set<std::string> unfinished;
  auto rest = store->Unfinished();
  ASSERT_TRUE(rest.ok());
  for (const StoredGeneration& stored : *rest) {
    unfinished.insert(stored.spec.request_id);
  }
  size_t images = 0;
  for (const std::string& id : accepted) {
    if (unfinished.count(id) == 0) {
      auto stored = store->FindEnded({"", id});
      ASSERT_TRUE(stored.ok()) << id << ": " << stored.status();
      EXPECT_EQ(stored->images[0]->data, TestImage(0, 100000)->data);
      ++images;
    }
  }
  EXPECT_GE(Files().size(), images);
  EXPECT_LE(Files().size(), images + unfinished.size()) << "no file without a row";
}

}  // namespace
}  // namespace patchflow
