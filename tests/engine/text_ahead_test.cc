// Texts that are encoded beside the denoising of the request before: they are there in no time, and
// no bit of an image is another.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/engine.h"

namespace patchflow {
namespace {

bool OnGpu() { return std::getenv("PATCHFLOW_TEST_GPU") != nullptr; }

// Offers texts when the denoising begins.
class Monitor final : public RequestMonitor {
 public:
  explicit Monitor(TextHints* hints = nullptr, std::vector<std::string> texts = {})
      : hints_(hints), texts_(std::move(texts)) {}
  void Enter(Phase phase) override {
    if (phase == Phase::kDenoise && hints_ != nullptr) hints_->Offer(texts_);
  }
  void StepsDone(int /*steps*/) override {}
  bool Continue(int /*step*/) override { return true; }

 private:
  TextHints* const hints_;
  const std::vector<std::string> texts_;
};

class TextAheadTest : public ::testing::Test {
 protected:
  TextAheadTest() : plain_(Load(nullptr)), hinted_(Load(hints_)) {}
  static std::unique_ptr<Engine> Load(std::shared_ptr<TextHints> hints) {
    auto engine = Engine::Load({.model_dir = "models/shapes-256",
                                .device = OnGpu() ? at::Device(at::kCUDA, 0) : at::kCPU,
                                .dtype = OnGpu() ? at::kBFloat16 : at::kFloat,
                                .text_hints = std::move(hints)},
                               {});
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }
  static ImageRequest RequestOf(int number, double guidance_scale = 4.5) {
    ImageRequest request;
    request.prompt = "a red star, number " + std::to_string(number);
    request.width_px = 64;
    request.height_px = 48;
    request.steps = 3;
    request.scheduler = "dpm-solver++";
    request.guidance_scale = guidance_scale;
    request.seed = static_cast<uint64_t>(number);
    return request;
  }
  Generated Make(Engine& engine, const ImageRequest& request, const ImageRequest* next = nullptr) {
    Monitor monitor;
    Monitor hinting(hints_.get(), next == nullptr
                                      ? std::vector<std::string>()
                                      : std::vector{next->prompt, next->negative_prompt});
    auto made = engine.Generate(request, next == nullptr ? monitor : hinting);
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }

  const std::shared_ptr<TextHints> hints_ = std::make_shared<TextHints>();
  const std::unique_ptr<Engine> plain_;
  const std::unique_ptr<Engine> hinted_;
};

TEST_F(TextAheadTest, TheNextTextTakesNoTime) {
  Make(*plain_, RequestOf(0));
  bool took_none = false;
  for (int i = 1; i < 10 && !took_none; i += 2) {  // A busy machine may stop either at any time.
    const ImageRequest next = RequestOf(i + 1);
    Make(*hinted_, RequestOf(i), &next);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    took_none = Make(*hinted_, next).times.text < Make(*plain_, next).times.text / 4;
  }
  EXPECT_TRUE(took_none);
}

// With no pause between the requests, so that texts are encoded at any moment of them.
TEST_F(TextAheadTest, NoImageIsAnother) {
  constexpr int kRequests = 24;
  for (int i = 0; i < kRequests; ++i) {
    const double guidance_scale = i % 3 == 0 ? 1 : 4.5;
    const ImageRequest request = RequestOf(i, guidance_scale);
    // Every fourth hint is for a request that does not come.
    const ImageRequest next = RequestOf(i % 4 == 3 ? 1000 + i : i + 1);
    const Generated hinted = Make(*hinted_, request, &next);
    EXPECT_EQ(hinted.image->pixels, Make(*plain_, request).image->pixels) << i;
  }
}

}  // namespace
}  // namespace patchflow
