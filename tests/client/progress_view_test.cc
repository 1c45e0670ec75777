#include "client/progress_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "tests/client/fake_service.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::Progress Running(int step, int total, int images_done = 0) {
  v1::Progress progress;
  progress.set_state(v1::STATE_RUNNING);
  progress.set_step(step);
  progress.set_total_steps(total);
  progress.set_images_done(images_done);
  progress.set_attempt(1);
  return progress;
}

TEST(ProgressViewTest, TextTellsWhereItStands) {
  v1::Progress progress = Running(9, 20, 1);
  progress.mutable_elapsed()->set_nanos(2'100'000'000 % 1'000'000'000);
  progress.mutable_elapsed()->set_seconds(2);
  progress.mutable_eta()->set_seconds(3);
  EXPECT_EQ(ProgressText(progress, 3), "step 9 of 20, image 2 of 3, 2.1 s, eta 3.0 s");
  progress.set_attempt(2);
  EXPECT_THAT(ProgressText(progress, 3), testing::EndsWith(", attempt 2"));
  EXPECT_EQ(ProgressText(Running(20, 20, 3), 3), "step 20 of 20, image 3 of 3");
  v1::Progress queued;
  queued.set_state(v1::STATE_QUEUED);
  EXPECT_EQ(ProgressText(queued, 1), "queued, next");
  queued.set_queue_position(3);
  EXPECT_EQ(ProgressText(queued, 1), "queued, 3 before it");
}

TEST(ProgressViewTest, BarIsFilledInProportionAndFits) {
  EXPECT_EQ(ProgressBarText(Running(5, 20), 1, 80),
            "[#######.......................] step 5 of 20");
  EXPECT_EQ(ProgressBarText(Running(0, 20), 1, 30), "[...............] step 0 of 20");
  EXPECT_EQ(ProgressBarText(Running(20, 20), 1, 30), "[##############] step 20 of 20");
  EXPECT_EQ(ProgressBarText(Running(5, 20), 1, 9), "step 5 of");
  EXPECT_EQ(ProgressBarText(Running(7, 0), 1, 30), "[################] step 7 of 0");
  for (int columns = 0; columns < 100; ++columns) {
    EXPECT_LE(ProgressBarText(Running(5, 20), 1, columns).size(), static_cast<size_t>(columns));
  }
}

TEST(ProgressViewTest, LinesComeForChangesAndNotForEveryStep) {
  std::ostringstream out;
  std::ostringstream err;
  Console console{out, err};
  const auto view = MakeProgressView(console);
  Script script("r");
  view->Accepted(script.Accepted(1, 5).accepted());
  for (int step = 1; step <= 20; ++step) view->Progress(Running(step, 20));
  v1::Progress again = Running(1, 20);
  again.set_attempt(2);
  view->Progress(again);
  EXPECT_EQ(err.str(), "accepted\nstep 1 of 20\nstep 1 of 20, attempt 2\n");
  EXPECT_EQ(out.str(), "");
}

TEST(ProgressViewTest, BarIsDrawnOverAndClearedForNotes) {
  std::ostringstream out;
  std::ostringstream err;
  Console console{out, err, true, 60};
  const auto view = MakeProgressView(console);
  view->Progress(Running(1, 20));
  view->Note("note");
  EXPECT_THAT(err.str(), testing::StartsWith("\r[#"));
  EXPECT_THAT(err.str(), testing::EndsWith("\r\x1B[Knote\n"));
  view->Clear();
  EXPECT_THAT(err.str(), testing::EndsWith("note\n"));
}

TEST(ProgressViewTest, QuietShowsNotesOnly) {
  std::ostringstream out;
  std::ostringstream err;
  Console console{out, err, true, 60};
  const auto view = MakeQuietView(console);
  view->Progress(Running(1, 20));
  view->Note("note");
  view->Clear();
  EXPECT_EQ(err.str(), "note\n");
}

}  // namespace
}  // namespace patchflow
