// Images of one batch by one device: each is, to the bit, what it is alone in a batch of that size.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <map>
#include <numeric>
#include <vector>

#include "engine/engine.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

bool OnGpu() { return std::getenv("PATCHFLOW_TEST_GPU") != nullptr; }

class Monitor final : public RequestMonitor {
 public:
  void Enter(Phase /*phase*/) override {}
  void StepsDone(int /*steps*/) override {}
  bool Continue(int step) override {
    asked.push_back(step);
    return true;
  }
  std::vector<int> asked;
};

// Prompts of other lengths, one of which is too long to be folded into a block's heads.
const std::array<BatchedImage, 4> kImages = {
    BatchedImage{.prompt = "a red star", .negative_prompt = "", .seed = 3},
    BatchedImage{.prompt = "a green triangle to the left of a blue circle above a yellow square on "
                           "a white background beside a red star under a black cat and a small "
                           "orange ring, all of them seen from far above in the evening",
                 .negative_prompt = "blurred, grey",
                 .seed = 4},
    BatchedImage{.prompt = "", .negative_prompt = "a red star on red", .seed = 5},
    BatchedImage{.prompt = "a blue circle", .negative_prompt = "", .seed = 3},
};

// 15 tokens, so that no row of the batch lies where vectors or shares of threads begin.
ImageRequest RequestOf(std::vector<BatchedImage> images, int batch_size) {
  ImageRequest request;
  request.width_px = 80;
  request.height_px = 48;
  request.steps = 3;
  request.scheduler = "dpm-solver++";
  request.prompt = images.front().prompt;
  request.negative_prompt = images.front().negative_prompt;
  request.seed = images.front().seed;
  request.preview = images.front().preview;
  request.beside.assign(images.begin() + 1, images.end());
  request.batch_size = batch_size;
  return request;
}

int LargestDifference(const Image& a, const Image& b) {
  if (a.pixels.size() != b.pixels.size()) return 255;
  int largest = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) {
    largest = std::max(largest, std::abs(a.pixels[i] - b.pixels[i]));
  }
  return largest;
}

class BatchTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto engine = Engine::Load({.model_dir = "models/shapes-256",
                                .device = OnGpu() ? at::Device(at::kCUDA, 0) : at::kCPU,
                                .dtype = OnGpu() ? at::kBFloat16 : at::kFloat},
                               {});
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }
  static void TearDownTestSuite() { engine_.reset(); }

  static std::vector<Image> Make(const ImageRequest& request) {
    Monitor monitor;
    absl::StatusOr<Generated> made = engine_->Generate(request, monitor);
    EXPECT_TRUE(made.ok()) << made.status();
    if (!made.ok()) return {};
    std::vector<Image> images = {*std::move(made->image)};
    for (Image& image : made->beside) images.push_back(std::move(image));
    return images;
  }

  static std::unique_ptr<Engine> engine_;
};
std::unique_ptr<Engine> BatchTest::engine_;

class EveryScale : public BatchTest, public testing::WithParamInterface<double> {};
INSTANTIATE_TEST_SUITE_P(GuidanceScales, EveryScale, testing::Values(1.0, 4.5));

TEST_P(EveryScale, AnImageIsTheSameAloneAndBesideOthersAtEveryRow) {
  std::vector<Image> alone;
  std::vector<Image> unbatched;
  for (const BatchedImage& image : kImages) {
    ImageRequest request = RequestOf({image}, 4);
    request.guidance_scale = GetParam();
    alone.push_back(Make(request).at(0));
    request.batch_size = 1;
    unbatched.push_back(Make(request).at(0));
  }
  std::vector<size_t> order = {0, 1, 2, 3};
  for (int turn = 0; turn < 4; ++turn) {
    ImageRequest request =
        RequestOf({kImages[order[0]], kImages[order[1]], kImages[order[2]], kImages[order[3]]}, 4);
    request.guidance_scale = GetParam();
    const std::vector<Image> together = Make(request);
    ASSERT_EQ(together.size(), 4u);
    for (size_t row = 0; row < 4; ++row) {
      EXPECT_EQ(together[row].pixels, alone[order[row]].pixels) << order[row] << " at " << row;
      if (!OnGpu()) {
        EXPECT_LE(LargestDifference(together[row], unbatched[order[row]]), 1);
      }
    }
    std::rotate(order.begin(), order.begin() + 1, order.end());
  }
  EXPECT_NE(alone[0].pixels, alone[3].pixels);
}

TEST_F(BatchTest, ABatchThatIsNotFullIsFilledUp) {
  const std::vector<Image> three = Make(RequestOf({kImages[0], kImages[1], kImages[2]}, 16));
  ASSERT_EQ(three.size(), 3u);
  EXPECT_EQ(three[2].pixels, Make(RequestOf({kImages[2]}, 16)).at(0).pixels);
}

TEST_F(BatchTest, EverySamplerStepsImagesApart) {
  for (const std::string_view sampler : Sampler::Names()) {
    ImageRequest alone = RequestOf({kImages[1]}, 3);
    alone.scheduler = sampler;
    ImageRequest together = RequestOf({kImages[0], kImages[2], kImages[1]}, 3);
    together.scheduler = sampler;
    EXPECT_EQ(Make(together).at(2).pixels, Make(alone).at(0).pixels) << sampler;
  }
}

TEST_F(BatchTest, EveryImageHasItsOwnPreviews) {
  std::map<int, std::vector<int>> shown;  // By seed.
  std::map<int, DrawPreview> last;
  const auto with_previews = [&](BatchedImage image, int every_steps) {
    image.preview = {.every_steps = every_steps,
                     .max_edge_px = 0,
                     .show = [&, seed = static_cast<int>(image.seed)](int step, DrawPreview draw) {
                       shown[seed].push_back(step);
                       last[seed] = std::move(draw);
                     }};
    return image;
  };
  Make(RequestOf({kImages[0], with_previews(kImages[1], 2), with_previews(kImages[2], 1)}, 4));
  EXPECT_EQ(shown.size(), 2u);
  EXPECT_THAT(shown[4], ElementsAre(2));
  EXPECT_THAT(shown[5], ElementsAre(1, 2, 3));
  const Image of_row_two = last.at(5)();
  Make(RequestOf({with_previews(kImages[2], 1)}, 4));
  EXPECT_EQ(of_row_two.pixels, last.at(5)().pixels);
}

// An engine that spoils latents of some rows behind the last step.
std::unique_ptr<Engine> LoadSpoiling(std::vector<int64_t> rows) {
  class Spoiling final : public Denoiser {
   public:
    Spoiling(const Transformer& transformer, std::vector<int64_t> rows)
        : inner_(MakeSerialDenoiser(transformer)), rows_(std::move(rows)) {}
    Tensor Denoise(const DenoiseJob& job, StepMonitor& monitor) override {
      const Tensor latents_NSC = inner_->Denoise(job, monitor);
      for (const int64_t row : rows_) latents_NSC[row][2][1] = std::nan("");
      return latents_NSC;
    }

   private:
    const std::unique_ptr<Denoiser> inner_;
    const std::vector<int64_t> rows_;
  };
  EnginePorts ports;
  ports.make_denoiser = [rows](const Transformer& transformer) {
    return std::make_unique<Spoiling>(transformer, rows);
  };
  return Engine::Load({.model_dir = "models/shapes-256"}, std::move(ports)).value();
}

TEST_F(BatchTest, AnImageThatIsNotFiniteFailsAlone) {
  Monitor monitor;
  const ImageRequest request = RequestOf({kImages[0], kImages[1], kImages[2]}, 4);
  const auto made = LoadSpoiling({0, 2, 3})->Generate(request, monitor);
  ASSERT_TRUE(made.ok()) << made.status();
  ASSERT_EQ(made->faults.size(), 3u) << "of images, not of rows";
  for (const size_t spoiled : {0, 2}) {
    EXPECT_EQ(made->faults[spoiled].code(), absl::StatusCode::kInternal);
    EXPECT_EQ(EngineReasonOf(made->faults[spoiled]), "NON_FINITE_OUTPUT");
  }
  EXPECT_TRUE(made->faults[1].ok());
  ASSERT_TRUE(made->image.has_value());
  EXPECT_TRUE(made->image->pixels.empty());
  ASSERT_EQ(made->beside.size(), 2u);
  EXPECT_TRUE(made->beside[1].pixels.empty());
  if (!OnGpu()) {
    EXPECT_EQ(made->beside[0].pixels, Make(request).at(1).pixels);
  }
}

TEST_F(BatchTest, OneThatIsNotFiniteOutsideItsImagesIsNoFault) {
  Monitor monitor;
  const auto made = LoadSpoiling({2, 3})->Generate(RequestOf({kImages[0], kImages[1]}, 4), monitor);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_TRUE(made->faults.empty());
}

TEST_F(BatchTest, FailsIfNoImageIsFinite) {
  Monitor monitor;
  const absl::Status status =
      LoadSpoiling({0, 1})->Generate(RequestOf({kImages[0], kImages[1]}, 4), monitor).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(EngineReasonOf(status), "NON_FINITE_OUTPUT");
}

TEST_F(BatchTest, PixelsThatAreNotFiniteFailTheirImageAlone) {
  int decoded = 0;
  EnginePorts ports;
  ports.decode = [&](const VaeDecoder& vae, const Tensor& latents,
                     const std::function<void()>& tile_done) {
    const Tensor pixels = DecodeWhole(vae, latents, tile_done);
    return ++decoded == 2 ? pixels.log() : pixels;  // Of negative numbers, too.
  };
  const auto engine = Engine::Load({.model_dir = "models/shapes-256"}, std::move(ports)).value();
  Monitor monitor;
  const auto made = engine->Generate(RequestOf({kImages[0], kImages[1], kImages[2]}, 4), monitor);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(decoded, 3);
  ASSERT_EQ(made->faults.size(), 3u);
  EXPECT_EQ(EngineReasonOf(made->faults[1]), "NON_FINITE_OUTPUT");
  EXPECT_TRUE(made->faults[0].ok() && made->faults[2].ok());
}

TEST_F(BatchTest, AsksOnceForEveryStepAndTile) {
  Monitor monitor;
  ASSERT_TRUE(engine_->Generate(RequestOf({kImages[0], kImages[1]}, 2), monitor).ok());
  std::vector<int> all(monitor.asked.size());
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(monitor.asked, all);
}

TEST_F(BatchTest, RefusesMoreImagesThanRowsAndMoreRowsThanThereMayBe) {
  for (const ImageRequest& wrong : {RequestOf({kImages[0], kImages[1]}, 1),
                                    RequestOf({kImages[0]}, 17), RequestOf({kImages[0]}, 0)}) {
    Monitor monitor;
    const absl::Status status = engine_->Generate(wrong, monitor).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("batch_size: "));
    EXPECT_TRUE(monitor.asked.empty());
  }
}

}  // namespace
}  // namespace patchflow
