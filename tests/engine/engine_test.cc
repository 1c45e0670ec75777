#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <vector>

namespace patchflow {
namespace {

using ::testing::HasSubstr;

constexpr char kBundled[] = "models/shapes-256";

// Says no at `stop_at`; remembers what it was told.
class Monitor final : public RequestMonitor {
 public:
  explicit Monitor(int stop_at = -1) : stop_at_(stop_at) {}
  void Enter(Phase phase) override { phases.push_back(phase); }
  void StepsDone(int steps) override { steps_done = steps; }
  bool Continue(int step) override {
    last_asked = step;
    return step != stop_at_;
  }

  std::vector<Phase> phases;
  int steps_done = 0;
  int last_asked = 0;

 private:
  const int stop_at_;
};

ImageRequest RequestOf(int steps) {
  ImageRequest request;
  request.prompt = "a red star";
  request.width_px = 64;
  request.height_px = 48;
  request.steps = steps;
  request.scheduler = "dpm-solver++";
  request.seed = 3;
  return request;
}

class EngineTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto engine = Engine::Load({.model_dir = kBundled}, {});
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }
  static void TearDownTestSuite() { engine_.reset(); }

  static absl::StatusOr<Generated> Make(const ImageRequest& request) {
    Monitor monitor;
    return engine_->Generate(request, monitor);
  }
  static std::vector<uint8_t> PixelsOf(const ImageRequest& request) {
    auto made = Make(request);
    EXPECT_TRUE(made.ok()) << made.status();
    return made->image->pixels;
  }

  static std::unique_ptr<Engine> engine_;
};
std::unique_ptr<Engine> EngineTest::engine_;

TEST_F(EngineTest, MakesAnImageOfTheSizeAskedForInThreePhases) {
  Monitor monitor;
  const auto made = engine_->Generate(RequestOf(2), monitor);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->image->width_px, 64);
  EXPECT_EQ(made->image->height_px, 48);
  EXPECT_EQ(made->image->pixels.size(), 3u * 64 * 48);
  EXPECT_EQ(monitor.phases, (std::vector<Phase>{Phase::kText, Phase::kDenoise, Phase::kDecode}));
  EXPECT_EQ(monitor.steps_done, 2);
  EXPECT_EQ(made->step_times.size(), 2u);
}

TEST_F(EngineTest, AnImageDependsOnItsRequestAndOnNothingBefore) {
  const std::vector<uint8_t> first = PixelsOf(RequestOf(2));
  ImageRequest other = RequestOf(3);
  other.prompt = "a blue circle";
  other.negative_prompt = "red";
  EXPECT_NE(PixelsOf(other), first);
  EXPECT_EQ(PixelsOf(RequestOf(2)), first);
  ImageRequest reseeded = RequestOf(2);
  reseeded.seed = 4;
  EXPECT_NE(PixelsOf(reseeded), first);
}

TEST_F(EngineTest, ANegativePromptHasNoEffectWithoutGuidance) {
  ImageRequest request = RequestOf(2);
  request.guidance_scale = 1;
  const std::vector<uint8_t> plain = PixelsOf(request);
  request.negative_prompt = "a red star";
  EXPECT_EQ(PixelsOf(request), plain);
  request.guidance_scale = 4;
  request.negative_prompt = "a blue circle";
  EXPECT_NE(PixelsOf(request), plain);
}

TEST_F(EngineTest, StopsWithinTheStepThatTheMonitorRefuses) {
  Monitor monitor(/*stop_at=*/5);
  const auto made = engine_->Generate(RequestOf(50), monitor);
  EXPECT_EQ(made.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(EngineReasonOf(made.status()), "CANCELLED");
  EXPECT_EQ(monitor.last_asked, 5);
  EXPECT_LE(monitor.steps_done, 5);
  EXPECT_TRUE(Make(RequestOf(1)).ok());
}

TEST_F(EngineTest, EveryWrongFieldIsNamedBeforeAnythingIsDone) {
  ImageRequest request = RequestOf(0);
  request.width_px = 1000;
  request.height_px = 0;
  request.guidance_scale = 0.5;
  Monitor monitor;
  const auto made = engine_->Generate(request, monitor);
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(EngineReasonOf(made.status()), "INVALID_REQUEST");
  for (const char* named : {"width_px: 1000", "height_px: 0", "guidance_scale: 0.5", "steps"}) {
    EXPECT_THAT(made.status().message(), HasSubstr(named));
  }
  EXPECT_TRUE(monitor.phases.empty());
}

TEST_F(EngineTest, LatentsThatAreNotFiniteAreAnError) {
  ImageRequest request = RequestOf(2);
  EnginePorts ports;
  ports.make_denoiser = [](const Transformer&) -> std::unique_ptr<Denoiser> {
    class NotFinite final : public Denoiser {
      Tensor Denoise(const DenoiseJob& job, StepMonitor& /*monitor*/) override {
        return job.noise_NSC.log();  // Of negative numbers, too.
      }
    };
    return std::make_unique<NotFinite>();
  };
  auto engine = Engine::Load({.model_dir = kBundled}, ports);
  ASSERT_TRUE(engine.ok()) << engine.status();
  Monitor monitor;
  const absl::Status status = (*engine)->Generate(request, monitor).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(EngineReasonOf(status), "NON_FINITE_OUTPUT");
}

TEST(EngineLoadTest, EveryBrokenComponentIsInOneStatus) {
  const std::filesystem::path dir = testing::TempDir() + "/broken_model";
  std::filesystem::remove_all(dir);
  std::filesystem::copy(kBundled, dir, std::filesystem::copy_options::recursive);
  std::filesystem::resize_file(dir / "vae/diffusion_pytorch_model.safetensors", 1000);
  std::filesystem::remove(dir / "text_encoder/model.safetensors");
  std::filesystem::remove(dir / "tokenizer/spiece.model");
  const absl::Status status = Engine::Load({.model_dir = dir}, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  for (const char* named : {"vae", "text_encoder", "spiece.model"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(named));
  }
}

TEST(DescribeModelTest, TellsWhatTheFolderHolds) {
  const auto model = DescribeModel(kBundled);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->architecture, "PixArtTransformer2DModel");
  EXPECT_EQ(model->default_scheduler, "dpm-solver++");
  EXPECT_EQ(model->size_multiple_px(), 16);
  EXPECT_EQ(model->default_size_px(), 256);
}

TEST(DescribeModelTest, AFolderThatIsNotThereIsNotFound) {
  EXPECT_EQ(DescribeModel("models/none").status().code(), absl::StatusCode::kNotFound);
}

TEST(DescribeModelTest, RefusesDefaultsThatAreUnknownOrOutOfRange) {
  const std::filesystem::path dir = testing::TempDir() + "/described_model";
  std::filesystem::remove_all(dir);
  std::filesystem::copy(kBundled, dir, std::filesystem::copy_options::recursive);
  std::ofstream(dir / "patchflow.json") << R"({"default_guidance_scale": 0.5, "default_stepz": 3})";
  const absl::Status status = DescribeModel(dir).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("default_guidance_scale"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("default_stepz"));
  std::ofstream(dir / "patchflow.json") << R"({"default_guidance_scale": 3.5, "default_steps": 9})";
  EXPECT_EQ(DescribeModel(dir)->default_guidance_scale, 3.5);
  EXPECT_EQ(DescribeModel(dir)->default_steps, 9);
}

}  // namespace
}  // namespace patchflow
