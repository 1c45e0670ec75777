#include "worker/rank_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

#include "absl/time/clock.h"
#include "tests/worker/fake_engine.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

// A barrier that all ranks of a step must reach, as a collective: abort() makes it throw.
class FakeCollective {
 public:
  explicit FakeCollective(int ranks) : ranks_(ranks) {}
  void Meet() {
    std::unique_lock lock(mutex_);
    const int round = round_;
    if (++here_ == ranks_) {
      here_ = 0;
      ++round_;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return round_ != round || aborted_; });
    if (round_ == round) throw std::runtime_error("communicator aborted");
  }
  void Abort() {
    const std::lock_guard lock(mutex_);
    aborted_ = true;
    changed_.notify_all();
  }

 private:
  const int ranks_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int here_ = 0;
  int round_ = 0;
  bool aborted_ = false;
};

ImageRequest Request(int steps = 4, uint64_t seed = 7) {
  ImageRequest request;
  request.width_px = 32;
  request.height_px = 16;
  request.steps = steps;
  request.seed = seed;
  return request;
}

RankGroupOptions Ranks(int ranks, const std::function<FakeEngineOptions(int rank)>& engine) {
  RankGroupOptions options;
  options.ranks = ranks;
  options.make_engine = [engine](int rank) -> absl::StatusOr<std::unique_ptr<Engine>> {
    FakeEngineOptions own = engine(rank);
    own.rank = rank;
    return std::make_unique<FakeEngine>(own);
  };
  options.load_timeout = absl::Seconds(5);
  options.first_run_timeout = absl::Seconds(5);
  options.abort_timeout = absl::Seconds(1);
  return options;
}

std::unique_ptr<RankGroup> Start(RankGroupOptions options) {
  absl::StatusOr<std::unique_ptr<RankGroup>> group = RankGroup::Start(std::move(options));
  EXPECT_TRUE(group.ok()) << group.status();
  return *std::move(group);
}

FakeEngineOptions Plain(int /*rank*/) { return {}; }

TEST(RankGroupTest, TheImageIsRankZerosAndTheMemoryTheHighest) {
  const auto group = Start(Ranks(3, Plain));
  const absl::StatusOr<Generated> result = group->Run(Request(), {}, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->image->pixels, std::vector<uint8_t>(3 * 32 * 16, 7));
  EXPECT_EQ(result->peak_memory_bytes, 102);
  EXPECT_EQ(result->step_times.size(), 4);
}

TEST(RankGroupTest, AllImagesOfABatchAreRankZeros) {
  const auto group = Start(Ranks(2, Plain));
  ImageRequest request = Request();
  request.batch_size = 4;
  request.beside = {{.prompt = "b", .negative_prompt = "", .seed = 8},
                    {.prompt = "c", .negative_prompt = "", .seed = 9}};
  const absl::StatusOr<Generated> result = group->Run(request, {}, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->image->pixels.front(), 7);
  ASSERT_EQ(result->beside.size(), 2u);
  EXPECT_EQ(result->beside[0].pixels.front(), 8);
  EXPECT_EQ(result->beside[1].pixels.front(), 9);
}

TEST(RankGroupTest, EachRankHasOneThreadOfItsOwnForLoadingAndAllJobs) {
  std::mutex mutex;
  std::vector<std::set<std::thread::id>> threads(2);
  RankGroupOptions options = Ranks(2, [&](int rank) {
    threads[rank].insert(std::this_thread::get_id());
    return FakeEngineOptions{.before_step = [&, rank](const ImageRequest&, int) {
      const std::lock_guard lock(mutex);
      threads[rank].insert(std::this_thread::get_id());
    }};
  });
  const auto group = Start(std::move(options));
  for (int job = 0; job < 3; ++job) ASSERT_TRUE(group->Run(Request(), {}, nullptr).ok());
  EXPECT_EQ(threads[0].size(), 1);
  EXPECT_EQ(threads[1].size(), 1);
  EXPECT_NE(threads[0], threads[1]);
}

TEST(RankGroupTest, ProgressIsTheLastRanksAndReachesTheLastStep) {
  const auto group = Start(Ranks(2, [](int rank) {
    return FakeEngineOptions{.step = std::chrono::milliseconds(rank == 1 ? 20 : 0),
                             .before_decode = [](const ImageRequest&) {
                               std::this_thread::sleep_for(std::chrono::milliseconds(100));
                             }};
  }));
  std::vector<std::pair<Phase, int>> told;
  ASSERT_TRUE(group
                  ->Run(Request(5), {},
                        [&](Phase phase, int steps) {
                          told.emplace_back(phase, steps);
                          EXPECT_LE(steps, group->Positions()[1].steps_done);
                        })
                  .ok());
  EXPECT_TRUE(std::is_sorted(told.begin(), told.end()));
  EXPECT_EQ(told.back(), std::pair(Phase::kDecode, 5));
}

TEST(RankGroupTest, CancellingStopsAllRanksAtTheSameStepAndTheGroupGoesOn) {
  std::array<std::atomic<int>, 3> steps = {};
  FakeCollective collective(3);
  RankGroupOptions options = Ranks(3, [&](int rank) {
    return FakeEngineOptions{.step = std::chrono::milliseconds(2),
                             .before_step = [&, rank](const ImageRequest& request, int) {
                               if (request.steps == 1000) ++steps[rank];
                               collective.Meet();
                             }};
  });
  options.abort = [&](const std::string&) { collective.Abort(); };
  const auto group = Start(std::move(options));
  std::stop_source stop;
  std::jthread canceller([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    stop.request_stop();
  });
  const absl::StatusOr<Generated> result = group->Run(Request(1000), stop.get_token(), nullptr);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kCancelled);
  EXPECT_LT(steps[0], 500);
  EXPECT_EQ(steps[0], steps[1]);
  EXPECT_EQ(steps[0], steps[2]);
  EXPECT_TRUE(group->failure().ok());
  EXPECT_TRUE(group->Run(Request(3), {}, nullptr).ok());
}

TEST(RankGroupTest, ARefusedRequestLeavesTheGroupUsable) {
  const auto group = Start(Ranks(2, Plain));
  ImageRequest request = Request();
  request.width_px = 17;
  EXPECT_EQ(group->Run(request, {}, nullptr).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(group->Run(Request(), {}, nullptr).ok());
}

TEST(RankGroupTest, AThrowOnOneRankEndsTheJobOnAllWithinABound) {
  FakeCollective collective(3);
  RankGroupOptions options = Ranks(3, [&](int rank) {
    return FakeEngineOptions{.before_step = [&, rank](const ImageRequest&, int step) {
      if (rank == 1 && step == 2) throw std::runtime_error("a broken rank");
      collective.Meet();
    }};
  });
  std::string reason;
  options.abort = [&](const std::string& why) {
    reason = why;
    collective.Abort();
  };
  const auto group = Start(std::move(options));
  const absl::Time start = absl::Now();
  const absl::StatusOr<Generated> result = group->Run(Request(), {}, nullptr);
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(result.status().message(), "a broken rank");
  EXPECT_EQ(reason, "a broken rank");
  EXPECT_EQ(group->failure().message(), "a broken rank");
  const absl::Status next = group->Run(Request(), {}, nullptr).status();
  EXPECT_EQ(next.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(EngineReasonOf(next), "ENGINE_FAILED");
  EXPECT_TRUE(group->Stop());
}

TEST(RankGroupTest, AHangingRankIsFoundAndLeftBehind) {
  auto release = std::make_shared<std::atomic<bool>>(false);
  RankGroupOptions options = Ranks(2, [&](int rank) {
    return FakeEngineOptions{.before_step = [rank, release](const ImageRequest&, int step) {
      while (rank == 1 && step == 3 && !*release) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    }};
  });
  options.first_run_timeout = absl::Milliseconds(300);
  options.abort_timeout = absl::Milliseconds(300);
  const auto group = Start(std::move(options));
  const absl::Time start = absl::Now();
  const absl::Status status = group->Run(Request(), {}, nullptr).status();
  EXPECT_LT(absl::Now() - start, absl::Seconds(3));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(EngineReasonOf(status), "ENGINE_FAILED");
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("rank 1 showed no progress for 300ms in denoise, after 3 steps"));
  EXPECT_FALSE(group->Stop());
  *release = true;
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
}

TEST(RankGroupTest, AnErrorInLoadingIsTheGroupsError) {
  RankGroupOptions options = Ranks(2, Plain);
  std::atomic<bool> aborted = false;
  options.make_engine = [&](int rank) -> absl::StatusOr<std::unique_ptr<Engine>> {
    if (rank == 1) return absl::InvalidArgumentError("no such weights");
    while (!aborted) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    throw std::runtime_error("aborted");
  };
  options.abort = [&](const std::string&) { aborted = true; };
  const auto group = RankGroup::Start(std::move(options));
  EXPECT_EQ(group.status(), absl::InvalidArgumentError("no such weights"));
}

TEST(RankGroupTest, AThrowInLoadingIsAnError) {
  RankGroupOptions options = Ranks(1, Plain);
  options.make_engine = [&](int) -> absl::StatusOr<std::unique_ptr<Engine>> {
    throw std::runtime_error("no driver");
  };
  const auto group = RankGroup::Start(std::move(options));
  EXPECT_EQ(group.status().message(), "no driver");
}

TEST(RankGroupTest, LoadingIsBounded) {
  RankGroupOptions options = Ranks(1, Plain);
  auto release = std::make_shared<std::atomic<bool>>(false);
  options.make_engine = [release](int) -> absl::StatusOr<std::unique_ptr<Engine>> {
    while (!*release) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return absl::InternalError("too late");
  };
  options.load_timeout = absl::Milliseconds(300);
  options.abort_timeout = absl::Milliseconds(200);
  const auto group = RankGroup::Start(std::move(options));
  EXPECT_EQ(group.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(group.status().message()), HasSubstr("rank 0 showed no progress"));
  *release = true;
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
}

}  // namespace
}  // namespace patchflow
