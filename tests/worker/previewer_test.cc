#include "worker/previewer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <future>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "worker/event_queue.h"

namespace patchflow {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::Pair;

class Recorder final : public JobEvents {
 public:
  void OnPhase(int /*image_index*/, JobPhase /*phase*/, int /*steps_done*/) override {}
  void OnTrace(int /*image_index*/, const std::vector<RankTrace>& /*ranks*/) override {}
  void OnImage(FinishedImage /*image*/) override {}
  void OnEnd(const absl::Status& /*status*/) override {}
  void OnPreview(int image_index, int steps_done, std::string png) override {
    const std::lock_guard lock(mutex_);
    previews.emplace_back(image_index, steps_done);
    files.push_back(std::move(png));
  }

  std::vector<std::pair<int, int>> previews;
  std::vector<std::string> files;

 private:
  std::mutex mutex_;
};

Image SmallImage() { return {2, 1, {1, 2, 3, 4, 5, 6}}; }

TEST(PreviewerTest, HandsOverPngFilesUnderTheirImageAndStep) {
  Recorder events;
  Previewer previewer;
  previewer.Of(events, 3)(2, SmallImage);
  previewer.Finish();
  previewer.Of(events, 5)(4, SmallImage);
  previewer.Finish();
  EXPECT_THAT(events.previews, ElementsAre(Pair(3, 2), Pair(5, 4)));
  EXPECT_EQ(events.files.at(0), EncodeImage(SmallImage(), {}).value());
}

TEST(PreviewerTest, TheFilesTellWhereTheyComeFrom) {
  Recorder events;
  const Metadata mark = {{std::string(kDigitalSourceType), "trainedAlgorithmicMedia"}};
  Previewer previewer;
  previewer.Of(events, 0, mark)(1, SmallImage);
  previewer.Finish();
  EXPECT_EQ(events.files.at(0), EncodeImage(SmallImage(), {.metadata = mark}).value());
  EXPECT_NE(events.files.at(0), EncodeImage(SmallImage(), {}).value());
}

TEST(PreviewerTest, TheNewestTakesThePlaceOfOneThatWaits) {
  Recorder events;
  Previewer previewer;
  const auto show = previewer.Of(events, 0);
  std::promise<void> drawing;
  std::promise<void> go_on;
  show(1, [&] {
    drawing.set_value();
    go_on.get_future().wait();
    return SmallImage();
  });
  drawing.get_future().wait();
  const auto begin = std::chrono::steady_clock::now();
  for (int step = 2; step <= 100; ++step) show(step, SmallImage);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(500));  // Nothing waited.
  go_on.set_value();
  previewer.Finish();
  EXPECT_THAT(events.previews, ElementsAre(Pair(0, 1), Pair(0, 100)));
}

TEST(PreviewerTest, ImagesOfAPassAreDrawnApart) {
  Recorder one;
  Recorder other;
  Previewer previewer;
  const auto first = previewer.Of(one, 0);
  const auto second = previewer.Of(one, 1);
  const auto third = previewer.Of(other, 1);
  std::promise<void> drawing;
  std::promise<void> go_on;
  first(1, [&] {
    drawing.set_value();
    go_on.get_future().wait();
    return SmallImage();
  });
  drawing.get_future().wait();
  for (const int step : {1, 2}) {
    second(step, SmallImage);
    third(step, SmallImage);
  }
  go_on.set_value();
  previewer.Finish();
  EXPECT_THAT(one.previews, ElementsAre(Pair(0, 1), Pair(1, 2)));
  EXPECT_THAT(other.previews, ElementsAre(Pair(1, 2)));
}

TEST(PreviewerTest, NothingComesAfterFinish) {
  Recorder events;
  Previewer previewer;
  const auto late = previewer.Of(events, 0);
  previewer.Finish();
  late(1, SmallImage);
  const auto next = previewer.Of(events, 1);
  late(2, SmallImage);
  next(1, SmallImage);
  previewer.Finish();
  EXPECT_THAT(events.previews, ElementsAre(Pair(1, 1)));
}

TEST(PreviewerTest, ADrawingThatHangsIsLeftBehindAndHandsOverNothing) {
  std::promise<void> drawing;
  auto go_on = std::make_shared<std::promise<void>>();
  auto ended = std::make_shared<std::promise<void>>();
  Recorder events;
  {
    Previewer previewer;
    const auto show = previewer.Of(events, 0);
    show(1, [&drawing, go_on, ended] {
      drawing.set_value();
      go_on->get_future().wait();
      ended->set_value_at_thread_exit();
      return SmallImage();
    });
    drawing.get_future().wait();
    const auto begin = std::chrono::steady_clock::now();
    previewer.Finish();
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  }
  go_on->set_value();
  ASSERT_EQ(ended->get_future().wait_for(std::chrono::seconds(10)), std::future_status::ready);
  EXPECT_TRUE(events.previews.empty());
}

TEST(PreviewerTest, OneThatCannotBeDrawnIsLeftOut) {
  Recorder events;
  Previewer previewer;
  const auto show = previewer.Of(events, 0);
  show(1, []() -> Image { throw std::runtime_error("the device is gone"); });
  previewer.Finish();
  previewer.Of(events, 0)(2, SmallImage);
  previewer.Finish();
  EXPECT_THAT(events.previews, ElementsAre(Pair(0, 2)));
}

}  // namespace
}  // namespace patchflow
