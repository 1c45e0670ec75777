// One job alone in passes of one row, as workers without batches make it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>
#include <stdexcept>
#include <thread>

#include "tests/worker/fake_group.h"
#include "worker/batch_run.h"
#include "worker/digest.h"
#include "worker/encoder.h"

namespace patchflow {
namespace {

using std::chrono::milliseconds;

class Recorder final : public JobEvents {
 public:
  struct Told {
    int image_index;
    JobPhase phase;
    int steps_done;
  };
  void OnPhase(int image_index, JobPhase phase, int steps_done) override {
    const std::lock_guard lock(mutex_);
    told.push_back({image_index, phase, steps_done});
  }
  void OnTrace(int image_index, const std::vector<RankTrace>& ranks) override {
    const std::lock_guard lock(mutex_);
    traces.emplace_back(image_index, ranks);
  }
  void OnImage(FinishedImage image) override {
    if (on_image) on_image(image);
    const std::lock_guard lock(mutex_);
    images.push_back(std::move(image));
  }
  void OnEnd(const absl::Status& /*status*/) override { ADD_FAILURE(); }

  std::function<void(const FinishedImage&)> on_image;
  std::vector<Told> told;
  std::vector<FinishedImage> images;
  std::vector<std::pair<int, std::vector<RankTrace>>> traces;

 private:
  std::mutex mutex_;
};

Job JobOfImages(const std::vector<int>& indices, int steps = 3) {
  Job job;
  for (const int index : indices) {
    ImageRequest request;
    request.width_px = 32;
    request.height_px = 16;
    request.steps = steps;
    request.seed = 100 + index;
    job.images.push_back({index, request, {.format = ImageFormat::kRawRgb8}});
  }
  return job;
}

class JobTest : public ::testing::Test {
 protected:
  void Start(const FakeEngineOptions& engine) { group_ = *StartFakeGroup(2, engine); }
  CallEnd RunRanks(const Job& job, Encoder& encoder,
                   const std::function<void()>& await_earlier = nullptr) {
    const std::shared_ptr<JobEvents> events(std::shared_ptr<JobEvents>(), &events_);
    return RunBatch(*group_, Batch({job, {}, events}, 1), stop_.get_token(), encoder, await_earlier)
        .at(0);
  }
  absl::Status Run(const Job& job) {
    Encoder encoder;
    const CallEnd end = RunRanks(job, encoder);
    const absl::Status last = end.last_images ? end.last_images() : absl::OkStatus();
    return last.ok() ? end.status : last;
  }

  std::unique_ptr<RankGroup> group_;
  std::stop_source stop_;
  Recorder events_;
};

TEST_F(JobTest, ImagesComeInTheOrderAskedForWithTheirFigures) {
  Start({});
  ASSERT_TRUE(Run(JobOfImages({2, 0, 5})).ok());
  ASSERT_EQ(events_.images.size(), 3);
  const std::vector<int> indices = {2, 0, 5};
  for (size_t i = 0; i < 3; ++i) {
    const FinishedImage& image = events_.images[i];
    EXPECT_EQ(image.index, indices[i]);
    EXPECT_EQ(image.seed, 100 + indices[i]);
    EXPECT_EQ(image.bytes, std::string(3 * 32 * 16, static_cast<char>(100 + indices[i])));
    EXPECT_EQ(image.sha256, Sha256(image.bytes));
    EXPECT_EQ(image.width_px, 32);
    EXPECT_EQ(image.height_px, 16);
    EXPECT_EQ(image.step_times.size(), 3);
    EXPECT_EQ(image.peak_memory_bytes, 101);
  }
}

TEST_F(JobTest, PositionsNeverFallBack) {
  Start({.step = milliseconds(5)});
  ASSERT_TRUE(Run(JobOfImages({0, 1}, 4)).ok());
  std::tuple<int, int, int> last(-1, 0, 0);
  for (const Recorder::Told& told : events_.told) {
    const std::tuple now(told.image_index, static_cast<int>(told.phase), told.steps_done);
    EXPECT_GE(now, last);
    last = now;
  }
  EXPECT_EQ(last, std::tuple(1, static_cast<int>(JobPhase::kEncode), 4));
}

TEST_F(JobTest, TheNextImageIsMadeWhileOneIsHandedOver) {
  std::atomic<bool> second_began = false;
  Start({.before_step = [&](const ImageRequest& request, int) {
    if (request.seed == 101) second_began = true;
  }});
  bool saw_second = false;
  events_.on_image = [&](const FinishedImage& image) {
    for (int i = 0; image.index == 0 && i < 2000 && !saw_second; ++i) {
      std::this_thread::sleep_for(milliseconds(1));
      saw_second = second_began;
    }
  };
  ASSERT_TRUE(Run(JobOfImages({0, 1})).ok());
  EXPECT_TRUE(saw_second);
}

TEST_F(JobTest, TheLastImageIsLeftWhenTheRanksAreIdle) {
  Start({});
  std::atomic<bool> take = false;
  events_.on_image = [&](const FinishedImage& image) {
    while (image.index == 3 && !take) std::this_thread::sleep_for(milliseconds(1));
  };
  Encoder encoder;
  int awaited = 0;
  const CallEnd end = RunRanks(JobOfImages({1, 2, 3}), encoder, [&] { ++awaited; });
  EXPECT_TRUE(end.status.ok());
  EXPECT_EQ(awaited, 1) << "for an earlier job's, before the first of this one is encoded";
  EXPECT_EQ(events_.traces.size(), 3U);
  ASSERT_TRUE(end.last_images);
  take = true;
  EXPECT_TRUE(end.last_images().ok());
  EXPECT_EQ(events_.images.size(), 3U);
}

TEST_F(JobTest, NothingIsLeftOfAJobWithoutAnImage) {
  Start({});
  stop_.request_stop();
  Encoder encoder;
  const CallEnd end =
      RunRanks(JobOfImages({0}), encoder, [] { ADD_FAILURE() << "nothing is encoded"; });
  EXPECT_TRUE(absl::IsCancelled(end.status));
  EXPECT_FALSE(end.last_images);
}

TEST_F(JobTest, AStoppedJobIsCancelledAndStillHandsOverWhatWasMade) {
  Start({.step = milliseconds(2), .before_step = [&](const ImageRequest& request, int step) {
           if (request.seed == 101 && step == 5) stop_.request_stop();
         }});
  EXPECT_EQ(Run(JobOfImages({0, 1, 2}, 500)).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(events_.images.size(), 1);
  EXPECT_TRUE(group_->failure().ok());
}

TEST_F(JobTest, AnImageThatCannotBeEncodedEndsTheJob) {
  Start({});
  Job job = JobOfImages({0});
  job.images[0].request.width_px = 16400;
  job.images[0].encode.format = ImageFormat::kWebp;
  EXPECT_EQ(Run(job).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(events_.images.empty());
}

TEST_F(JobTest, MetadataIsWrittenIntoTheFile) {
  Start({});
  Job job = JobOfImages({0});
  job.images[0].encode.format = ImageFormat::kPng;
  job.images[0].encode.metadata = {{"parameters", "a red circle"}};
  ASSERT_TRUE(Run(job).ok());
  EXPECT_NE(events_.images[0].bytes.find("a red circle"), std::string::npos);
}

TEST_F(JobTest, TellsWhatEachRankDidAtEachImage) {
  Start({.step = milliseconds(5)});
  const auto begin = RankTrace::Clock::now();
  ASSERT_TRUE(Run(JobOfImages({4, 1})).ok());
  const auto end = RankTrace::Clock::now();
  ASSERT_EQ(events_.traces.size(), 2U);
  EXPECT_EQ(events_.traces[0].first, 4);
  EXPECT_EQ(events_.traces[1].first, 1);
  for (const auto& [image, ranks] : events_.traces) {
    ASSERT_EQ(ranks.size(), 2U);
    for (size_t rank = 0; rank < ranks.size(); ++rank) {
      const RankTrace& trace = ranks[rank];
      EXPECT_EQ(trace.rank, static_cast<int>(rank));
      ASSERT_EQ(trace.phases.size(), 3U);
      EXPECT_EQ(trace.phases[0].phase, Phase::kText);
      EXPECT_EQ(trace.phases[1].phase, Phase::kDenoise);
      EXPECT_EQ(trace.phases[2].phase, Phase::kDecode);
      auto last = begin;
      for (const RankTrace::PhaseSpan& span : trace.phases) {
        EXPECT_GE(span.begin, last);
        EXPECT_GE(span.end, span.begin);
        last = span.end;
      }
      EXPECT_LE(last, end);
      EXPECT_GE(trace.phases[1].end - trace.phases[1].begin, milliseconds(15)) << "three steps";
      EXPECT_GE(*trace.steps_begin, trace.phases[1].begin);
      EXPECT_EQ(trace.step_times, std::vector<absl::Duration>(3, absl::Milliseconds(5)));
    }
  }
}

TEST_F(JobTest, TellsWhatWasDoneAtAnImageThatWasStopped) {
  Start({.before_step = [this](const ImageRequest&, int step) {
    if (step == 1) stop_.request_stop();
  }});
  EXPECT_TRUE(absl::IsCancelled(Run(JobOfImages({0}, 100))));
  ASSERT_EQ(events_.traces.size(), 1U);
  for (const RankTrace& trace : events_.traces[0].second) {
    ASSERT_EQ(trace.phases.size(), 2U);
    EXPECT_GE(trace.phases[1].end, trace.phases[1].begin);
    EXPECT_TRUE(trace.step_times.empty());
  }
}

}  // namespace
}  // namespace patchflow
