// Whole images by every rank of a group, of the bundled model, against those of one rank.
#include "worker/placed_engine.h"

#include <gmock/gmock.h>

#include <map>
#include <utility>

#include "tests/worker/placed_images.h"

namespace patchflow {
namespace {

const Image& SerialImage(int size_px, int steps) {
  static std::map<std::pair<int, int>, Image> known;
  Image& image = known[{size_px, steps}];
  if (image.pixels.empty()) image = MakeImage("serial", RequestOf(size_px, steps));
  return image;
}

class SynchronousLayout : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Layouts, SynchronousLayout,
                         testing::Values("tensor=2", "ulysses=2", "ring=3", "guidance=2",
                                         "tensor=2,ulysses=2", "distrifusion=2,warmup_steps=4",
                                         "pipefusion=2,patches=4,warmup_steps=4"));

TEST_P(SynchronousLayout, MakesTheBytesOfOneRankWithinOne) {
  const ImageRequest request = RequestOf(128, 4);
  EXPECT_LE(LargestDifference(MakeImage(GetParam(), request), SerialImage(128, 4)), 1);
}

class StaleLayout : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Layouts, StaleLayout,
                         testing::Values("distrifusion=2,warmup_steps=1",
                                         "pipefusion=2,patches=4,warmup_steps=1"));

TEST_P(StaleLayout, StaysNearTheImageOfOneRankAndDiffersFromIt) {
  const double psnr_db = PsnrDb(MakeImage(GetParam(), RequestOf(256, 20)), SerialImage(256, 20));
  EXPECT_GE(psnr_db, 20);
  EXPECT_LT(psnr_db, 60);
}

TEST(PlacedEngineTest, RefusesImagesWithTooFewTokens) {
  const Layout layout = ParseLayout("pipefusion=2,patches=8").value();
  const ModelDescription description = DescribeModel(kBundledModel).value();
  RunRanks(2, [&](const Rank& rank) {
    const auto engine = LoadPlacedEngine({.model_dir = kBundledModel, .device = rank.device},
                                         layout, description.transformer, rank.world);
    ASSERT_TRUE(engine.ok()) << engine.status();
    SilentMonitor monitor;
    const absl::Status status = (*engine)->Generate(RequestOf(32, 2), monitor).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(EngineReasonOf(status), "INVALID_REQUEST");
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("has only 4"));
  });
}

}  // namespace
}  // namespace patchflow
