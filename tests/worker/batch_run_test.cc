#include "worker/batch_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>

#include "tests/worker/fake_group.h"
#include "worker/log.h"

namespace patchflow {
namespace {

using std::chrono::milliseconds;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

class Recorder final : public JobEvents {
 public:
  void OnPhase(int image_index, JobPhase phase, int steps_done) override {
    const std::lock_guard lock(mutex_);
    positions[image_index].emplace_back(phase, steps_done);
  }
  void OnPreview(int image_index, int steps_done, std::string /*png*/) override {
    const std::lock_guard lock(mutex_);
    previews.emplace_back(image_index, steps_done);
  }
  void OnTrace(int image_index, const std::vector<RankTrace>& ranks) override {
    const std::lock_guard lock(mutex_);
    EXPECT_EQ(ranks.size(), 2U);
    traced.push_back(image_index);
  }
  void OnImage(FinishedImage image) override {
    if (on_image) on_image();
    const std::lock_guard lock(mutex_);
    images.push_back(std::move(image));
  }
  void OnEnd(const absl::Status& /*status*/) override { ADD_FAILURE(); }

  std::vector<uint64_t> Seeds() const {
    std::vector<uint64_t> seeds;
    for (const FinishedImage& image : images) seeds.push_back(image.seed);
    return seeds;
  }

  std::function<void()> on_image;
  std::map<int, std::vector<std::pair<JobPhase, int>>> positions;
  std::vector<std::pair<int, int>> previews;
  std::vector<int> traced;
  std::vector<FinishedImage> images;

 private:
  std::mutex mutex_;
};

// A call and what it was told.
struct Caller {
  std::stop_source stop;
  std::shared_ptr<Recorder> events = std::make_shared<Recorder>();
  BatchCall call;
};

// Of images with the seeds; the first one has index 0.
std::unique_ptr<Caller> CallerOf(const std::vector<uint64_t>& seeds, int steps = 3) {
  auto caller = std::make_unique<Caller>();
  Job job;
  for (const uint64_t seed : seeds) {
    JobImage image{.index = static_cast<int>(job.images.size()),
                   .request = {},
                   .encode = {.format = ImageFormat::kRawRgb8}};
    image.request.prompt = "seed " + std::to_string(seed);
    image.request.negative_prompt = "not " + std::to_string(seed);
    image.request.width_px = 32;
    image.request.height_px = 16;
    image.request.steps = steps;
    image.request.seed = seed;
    job.images.push_back(std::move(image));
  }
  caller->call = {std::move(job), caller->stop.get_token(), caller->events};
  return caller;
}

class BatchRunTest : public ::testing::Test {
 protected:
  // Notes what the engine is asked for.
  void Start(FakeEngineOptions engine = {}) {
    engine.before_decode = [this](const ImageRequest& request) {
      const std::lock_guard lock(mutex_);
      passes_.push_back(request);
    };
    group_ = *StartFakeGroup(2, engine);
  }

  void Call(const std::vector<uint64_t>& seeds, int steps = 3) {
    callers_.push_back(CallerOf(seeds, steps));
  }

  // Of the callers, in passes of so many rows; what came of each to its very end.
  std::vector<absl::Status> Run(int batch_size) {
    Batch batch(callers_[0]->call, batch_size);
    for (size_t i = 1; i < callers_.size(); ++i) {
      EXPECT_TRUE(batch.Fits(callers_[i]->call.job));
      batch.Add(callers_[i]->call);
    }
    Encoder encoder;
    const std::vector<CallEnd> ends = RunBatch(*group_, batch, stop_.get_token(), encoder);
    std::vector<absl::Status> statuses(ends.size());
    std::vector<std::jthread> tails;
    for (size_t i = 0; i < ends.size(); ++i) {
      tails.emplace_back([&, i] {
        const absl::Status last = ends[i].last_images ? ends[i].last_images() : absl::OkStatus();
        statuses[i] = last.ok() ? ends[i].status : last;
      });
    }
    tails.clear();
    return statuses;
  }
  // Of rank 0 and rank 1.
  std::vector<ImageRequest> Passes() {
    const std::lock_guard lock(mutex_);
    return passes_;
  }
  Recorder& Told(size_t caller) { return *callers_[caller]->events; }

  std::unique_ptr<RankGroup> group_;
  std::stop_source stop_;
  std::vector<std::unique_ptr<Caller>> callers_;

 private:
  std::mutex mutex_;
  std::vector<ImageRequest> passes_;
};

MATCHER(IsOk, "") { return arg.ok(); }
MATCHER(IsCancelled, "") { return absl::IsCancelled(arg) && EngineReasonOf(arg) == "CANCELLED"; }

TEST_F(BatchRunTest, OnePassMakesTheImagesOfAllCallsAndEachIsToldItsOwn) {
  Start();
  Call({10});
  Call({20, 21});
  EXPECT_THAT(Run(4), Each(IsOk()));
  ASSERT_EQ(Passes().size(), 2U) << "one for each rank";
  const ImageRequest pass = Passes().at(0);
  EXPECT_EQ(pass.batch_size, 4);
  EXPECT_EQ(pass.prompt, "seed 10");
  ASSERT_EQ(pass.beside.size(), 2U);
  EXPECT_EQ(pass.beside[1].prompt, "seed 21");
  EXPECT_EQ(pass.beside[1].negative_prompt, "not 21");
  EXPECT_EQ(pass.beside[1].seed, 21U);
  EXPECT_THAT(Told(0).Seeds(), ElementsAre(10));
  EXPECT_THAT(Told(1).Seeds(), ElementsAre(20, 21));
  for (size_t caller = 0; caller < 2; ++caller) {
    Recorder& told = Told(caller);
    EXPECT_EQ(told.positions.size(), told.images.size());
    for (size_t i = 0; i < told.images.size(); ++i) {
      const FinishedImage& image = told.images[i];
      EXPECT_EQ(image.index, static_cast<int>(i));
      EXPECT_EQ(image.bytes, std::string(3 * 32 * 16, static_cast<char>(image.seed)));
      EXPECT_EQ(image.step_times.size(), 3U);
      EXPECT_EQ(image.peak_memory_bytes, 101);
      EXPECT_EQ(told.traced[i], image.index);
      EXPECT_EQ(told.positions[image.index].back(), std::pair(JobPhase::kEncode, 3));
    }
  }
}

TEST_F(BatchRunTest, MoreImagesThanRowsTakeSeveralPasses) {
  Start();
  Call({1, 2, 3, 4, 5, 6, 7});
  EXPECT_THAT(Run(3), Each(IsOk()));
  std::multiset<size_t> images;
  for (const ImageRequest& pass : Passes()) images.insert(pass.beside.size() + 1);
  EXPECT_THAT(images, ElementsAre(1, 1, 3, 3, 3, 3)) << "of two ranks";
  EXPECT_THAT(Told(0).Seeds(), ElementsAre(1, 2, 3, 4, 5, 6, 7));
  EXPECT_THAT(Told(0).traced, ElementsAre(0, 1, 2, 3, 4, 5, 6));
}

TEST_F(BatchRunTest, EachIsShownItsOwnPreviews) {
  Start({.after = [](const ImageRequest& request, Generated& made) {
    if (!made.image.has_value()) return;  // Rank 0 shows.
    EXPECT_FALSE(request.preview.show);
    for (const BatchedImage& image : request.beside) {
      if (image.preview.every_steps == 0) continue;
      image.preview.show(static_cast<int>(image.seed), [] { return Image{1, 1, {1, 2, 3}}; });
    }
  }});
  Call({10});
  Call({20});
  Call({30, 31});
  for (size_t caller : {1, 2}) {
    for (JobImage& image : callers_[caller]->call.job.images) image.request.preview.every_steps = 1;
  }
  EXPECT_THAT(Run(4), Each(IsOk()));
  EXPECT_TRUE(Told(0).previews.empty());
  EXPECT_THAT(Told(1).previews, ElementsAre(std::pair(0, 20)));
  EXPECT_THAT(Told(2).previews, ElementsAre(std::pair(0, 30), std::pair(1, 31)));
}

TEST_F(BatchRunTest, TheLogTellsWhoseImagesAndPreviewsItSpeaksOf) {
  Start({.after = [](const ImageRequest& request, Generated& made) {
    if (!made.image.has_value()) return;  // Rank 0 shows.
    for (const BatchedImage& image : request.beside) {
      image.preview.show(1, []() -> Image { throw std::runtime_error("torn"); });
    }
  }});
  Call({10});
  Call({20});
  callers_[0]->call.job.request_id = "first";
  callers_[1]->call.job.request_id = "second";
  callers_[1]->call.job.images[0].request.preview.every_steps = 1;
  const std::string before = LogLevelName();
  testing::internal::CaptureStderr();
  SetLogLevel("debug");
  EXPECT_THAT(Run(2), Each(IsOk()));
  FlushLog();
  SetLogLevel(before);
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr(R"("msg":"image made","request_id":"first","index":0)"));
  EXPECT_THAT(log, HasSubstr(R"("msg":"image made","request_id":"second","index":0)"));
  EXPECT_THAT(log, HasSubstr(R"("msg":"no preview","request_id":"second","index":0,"why":)"));
}

TEST_F(BatchRunTest, ACallThatIsGivenUpDisturbsNobody) {
  Start({.before_step = [this](const ImageRequest&, int step) {
    if (step == 1) callers_[1]->stop.request_stop();
  }});
  Call({10});
  Call({20});
  EXPECT_THAT(Run(2), ElementsAre(IsOk(), IsCancelled()));
  EXPECT_THAT(Told(0).Seeds(), ElementsAre(10));
  EXPECT_TRUE(Told(1).images.empty());
  EXPECT_EQ(Passes().at(0).beside.size(), 1U) << "its row was computed";
}

TEST_F(BatchRunTest, StopsWithinAStepWhenAllAreGivenUp) {
  std::atomic<int> last_step = 0;
  Start({.step = milliseconds(1), .before_step = [&](const ImageRequest&, int step) {
           last_step = step;
           if (step == 3) callers_[0]->stop.request_stop();
           if (step == 6) callers_[1]->stop.request_stop();
         }});
  Call({10}, 500);
  Call({20}, 500);
  EXPECT_THAT(Run(2), Each(IsCancelled()));
  EXPECT_LE(last_step, 8);
  EXPECT_TRUE(group_->failure().ok());
}

TEST_F(BatchRunTest, StopsForWhoeverRunsItWithoutAskingTheCallers) {
  Start({.before_step = [this](const ImageRequest&, int step) {
    if (step == 3) stop_.request_stop();
  }});
  Call({10}, 500);
  Call({20}, 500);
  EXPECT_THAT(Run(2), Each(IsCancelled()));
}

TEST_F(BatchRunTest, WhatEndsThePassEndsEveryCall) {
  Start({.before_step = [](const ImageRequest&, int step) {
    if (step == 1) throw std::runtime_error("a broken rank");
  }});
  Call({10});
  Call({20});
  for (const absl::Status& status : Run(2)) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_EQ(status.message(), "a broken rank");
  }
  EXPECT_THAT(Told(0).traced, ElementsAre(0));
  EXPECT_THAT(Told(1).traced, ElementsAre(0));
}

TEST_F(BatchRunTest, AnImageThatIsNotFiniteFailsItsCallAlone) {
  Start({.after = [](const ImageRequest&, Generated& made) {
    const absl::Status fault =
        WithEngineReason(absl::InternalError("not finite"), "NON_FINITE_OUTPUT");
    made.faults = {fault, absl::OkStatus(), absl::OkStatus(), fault};
    if (made.image.has_value()) made.image = made.beside[2] = Image();
  }});
  Call({10});
  Call({20});
  Call({30, 31});
  const std::vector<absl::Status> statuses = Run(4);
  EXPECT_EQ(EngineReasonOf(statuses[0]), "NON_FINITE_OUTPUT");
  EXPECT_TRUE(statuses[1].ok());
  EXPECT_EQ(EngineReasonOf(statuses[2]), "NON_FINITE_OUTPUT");
  EXPECT_TRUE(Told(0).images.empty());
  EXPECT_THAT(Told(1).Seeds(), ElementsAre(20));
  EXPECT_THAT(Told(2).Seeds(), ElementsAre(30)) << "its finite one is handed over";
}

TEST_F(BatchRunTest, NothingIsMadeAfterAnImageThatIsNotFinite) {
  Start({.after = [](const ImageRequest&, Generated& made) {
    made.faults = {absl::OkStatus(), absl::InternalError("not finite")};
  }});
  Call({1, 2, 3, 4});
  EXPECT_TRUE(absl::IsInternal(Run(2)[0]));
  EXPECT_EQ(Passes().size(), 2U) << "of two ranks";
  EXPECT_THAT(Told(0).Seeds(), ElementsAre(1));
}

TEST_F(BatchRunTest, ACallThatDoesNotTakeItsImagesHoldsUpNoOther) {
  Start();
  Call({10});
  Call({20});
  std::atomic<bool> other_came = false;
  Told(0).on_image = [&] {
    for (int i = 0; i < 5000 && !other_came; ++i) std::this_thread::sleep_for(milliseconds(1));
  };
  Told(1).on_image = [&] { other_came = true; };
  EXPECT_THAT(Run(2), Each(IsOk()));
  EXPECT_TRUE(other_came);
}

}  // namespace
}  // namespace patchflow
