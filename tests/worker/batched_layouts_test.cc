// Batches by every rank of a group, of the bundled model: what is beside an image, and at which
// row, is nothing to it, whatever the layout.
#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "tests/worker/placed_images.h"
#include "worker/placed_engine.h"

namespace patchflow {
namespace {

constexpr int kRows = 3;

ImageRequest BatchOf(const std::vector<BatchedImage>& images) {
  ImageRequest request = RequestOf(0, 4);
  request.width_px = 112;  // 63 tokens, of which no number of ranks has equal shares.
  request.height_px = 144;
  request.prompt = images.front().prompt;
  request.negative_prompt = images.front().negative_prompt;
  request.seed = images.front().seed;
  request.beside.assign(images.begin() + 1, images.end());
  request.batch_size = kRows;
  return request;
}

const std::vector<BatchedImage>& Images() {
  static const std::vector<BatchedImage> images = {
      {.prompt = "a red star", .negative_prompt = "", .seed = 1},
      {.prompt = "a large green triangle to the left of a blue circle on a white background",
       .negative_prompt = "grey",
       .seed = 2},
      {.prompt = "a cat", .negative_prompt = "a dog, a horse", .seed = 3},
  };
  return images;
}

// Those that as many ranks as there can be here have.
std::vector<std::string> Layouts() {
  std::vector<std::string> all = {"serial",
                                  "tensor=2",
                                  "ulysses=2",
                                  "ring=2",
                                  "ring=3",
                                  "guidance=2",
                                  "ulysses=2,ring=2",
                                  "guidance=2,tensor=2",
                                  "distrifusion=2,warmup_steps=1",
                                  "pipefusion=2,patches=3,warmup_steps=1"};
  std::erase_if(
      all, [](const std::string& text) { return ParseLayout(text).value().ranks() > MaxRanks(); });
  return all;
}

class BatchedLayout : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Layouts, BatchedLayout, testing::ValuesIn(Layouts()));

TEST_P(BatchedLayout, AnImageIsTheSameAloneAndBesideOthers) {
  const std::vector<BatchedImage>& images = Images();
  std::vector<Image> together = MakeImages(GetParam(), BatchOf(images));
  ASSERT_EQ(together.size(), 3u);
  for (size_t n = 0; n < images.size(); ++n) {
    const Image alone = MakeImage(GetParam(), BatchOf({images[n]}));
    EXPECT_EQ(together[n].pixels, alone.pixels) << n;
    ImageRequest unbatched = BatchOf({images[n]});
    unbatched.batch_size = 1;
    if (!RanksAreGpus()) {
      EXPECT_LE(LargestDifference(alone, MakeImage(GetParam(), unbatched)), 1) << n;
    }
  }
}

}  // namespace
}  // namespace patchflow
