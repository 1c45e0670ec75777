#include "worker/warm_up.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <set>
#include <stdexcept>

#include "tests/worker/fake_group.h"
#include "worker/load.h"

namespace patchflow {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

ModelDescription Model() {
  ModelDescription model;
  model.vae.scale_factor = 8;
  model.transformer.patch_size = 2;
  model.transformer.default_size_px = 1024;
  model.default_scheduler = "euler";
  return model;
}

std::vector<ImageSize> Sizes(const std::string& text) { return ParseWarmUp(text).value(); }

std::string Fault(const std::string& text) {
  return std::string(ParseWarmUp(text).status().message());
}

TEST(WarmUpSizesTest, AreListedWithCommas) {
  EXPECT_TRUE(Sizes("").empty());
  EXPECT_THAT(Sizes("1024x512,16x8192"), ElementsAre(ImageSize{1024, 512}, ImageSize{16, 8192}));
  EXPECT_EQ(ToString(ImageSize{1024, 512}), "1024x512");
}

TEST(WarmUpSizesTest, RefusesWhatIsNoSize) {
  for (const char* text : {"1024", "1024x", "x1024", "0x16", "1024x8193", "16x16x16", "-16x16",
                           "16 x16", "16x16,", "16x1e3"}) {
    EXPECT_THAT(Fault(text), HasSubstr("is not WIDTHxHEIGHT, each 1 to 8192 px")) << text;
  }
  EXPECT_THAT(Fault("32x16,16x32,32x16"), HasSubstr("32x16: is named twice"));
  std::string many = "16x16";
  for (int i = 2; i <= 16; ++i) many += ",16x" + std::to_string(16 * i);
  EXPECT_EQ(Sizes(many).size(), 16U);
  EXPECT_EQ(Fault(many + ",32x16"), "17 sizes, limit 16");
}

TEST(WarmUpSizesTest, RefusesWhatTheModelCannotMake) {
  const auto fault = [](const char* sizes, const char* layout) {
    return std::string(
        CheckWarmUp(Sizes(sizes), Model(), ParseLayout(layout).value(), 1 << 20).message());
  };
  EXPECT_EQ(fault("1024x1024,16x16", ""), "");
  EXPECT_THAT(fault("64x64,64x1000", ""),
              HasSubstr("64x1000: height 1000 is not a multiple of 16"));
  EXPECT_THAT(fault("1024x1040", ""), HasSubstr("1024x1040: 1064960 pixels are above the limit of "
                                                "1048576 (max_pixels)"));
  EXPECT_THAT(fault("64x64,16x16", "distrifusion=4"), HasSubstr("16x16: "));
}

TEST(WarmUpPlanTest, WithoutSizesIsTheModelsOwn) {
  const Layout serial;
  EXPECT_THAT(PlanWarmUp({}, Model(), serial, true, 3).sizes, ElementsAre(ImageSize{1024, 1024}));
  EXPECT_THAT(PlanWarmUp({}, Model(), serial, false, 3).sizes, ElementsAre(ImageSize{256, 256}));
  const WarmUpPlan plan = PlanWarmUp(Sizes("64x32"), Model(), serial, false, 3);
  EXPECT_THAT(plan.sizes, ElementsAre(ImageSize{64, 32}));
  EXPECT_EQ(plan.request.guidance_scale, 3);
  EXPECT_EQ(plan.request.scheduler, "euler");
  EXPECT_EQ(plan.request.steps, 2);
}

TEST(WarmUpPlanTest, RunsBatchesOfTheSizeOfTheRequestsToCome) {
  EXPECT_EQ(PlanWarmUp({}, Model(), {}, false, 3).request.batch_size, 1);
  EXPECT_EQ(PlanWarmUp({}, Model(), {}, false, 3, 4).request.batch_size, 4);
}

TEST(WarmUpPlanTest, RunsEveryKindOfStepTwice) {
  const auto plan = [](const char* layout, bool on_gpus) {
    return PlanWarmUp(Sizes("64x64,32x64"), Model(), ParseLayout(layout).value(), on_gpus, 3);
  };
  EXPECT_EQ(plan("pipefusion=2,warmup_steps=3", true).request.steps, 5);
  EXPECT_EQ(plan("pipefusion=2,warmup_steps=3", true).images(), 2);
  EXPECT_EQ(plan("distrifusion=2,warmup_steps=1", true).request.steps, 3);
  EXPECT_EQ(plan("distrifusion=2,warmup_steps=1", true).images(), 4)
      << "the last step has a graph of its own";
  EXPECT_EQ(plan("distrifusion=2,cuda_graphs=0", true).images(), 2);
  EXPECT_EQ(plan("distrifusion=2", false).images(), 2);
}

// A group of two ranks, and the images of rank 0 as size and steps.
class WarmUpTest : public testing::Test {
 protected:
  absl::Status Run(const WarmUpPlan& plan) {
    FakeEngineOptions engine;
    engine.before_step = [this](const ImageRequest& request, int /*step*/) {
      const std::lock_guard lock(mutex_);
      ++steps_[{request.width_px, request.height_px}];
      guidance_.insert(request.guidance_scale);
      if (request.width_px == failing_px_) throw std::runtime_error("too large for it");
    };
    auto group = StartFakeGroup(2, engine);
    if (!group.ok()) return group.status();
    return WarmUp(plan, **group).status();
  }

  std::mutex mutex_;
  std::map<std::pair<int, int>, int> steps_;  // Of both ranks.
  std::set<double> guidance_;
  int failing_px_ = 0;
};

TEST_F(WarmUpTest, MakesAnImageOfEverySize) {
  const WarmUpPlan plan = PlanWarmUp(Sizes("64x32,32x64,48x48"), Model(),
                                     ParseLayout("pipefusion=2,warmup_steps=1").value(), true, 3);
  ASSERT_TRUE(Run(plan).ok());
  EXPECT_THAT(steps_, ElementsAre(Pair(std::pair(32, 64), 6), Pair(std::pair(48, 48), 6),
                                  Pair(std::pair(64, 32), 6)));
  EXPECT_THAT(guidance_, ElementsAre(3));
}

TEST_F(WarmUpTest, NamesTheSizeThatFailsAndEndsThere) {
  failing_px_ = 48;
  const absl::Status status = Run(PlanWarmUp(Sizes("64x32,48x16,32x64"), Model(), {}, false, 3));
  EXPECT_TRUE(absl::IsInternal(status));
  EXPECT_EQ(EngineReasonOf(status), "INTERNAL");
  EXPECT_EQ(status.message(), "warm-up of 48x16: too large for it");
  EXPECT_EQ(steps_.count({32, 64}), 0U);
}

// A load of the bundled model.
class LoadTest : public testing::Test {
 protected:
  static LoadOptions Options(const std::string& warm_up, const std::string& layout = "") {
    LoadOptions options;
    options.model_dir = "models/shapes-256";
    options.layout = ParseLayout(layout).value();
    options.devices = ChooseDevices("cpu", "float32", options.layout.ranks(), 0).value();
    options.threads = 1;
    options.warm_up = Sizes(warm_up);
    return options;
  }
  static absl::StatusOr<LoadedGroup> Load(const std::string& warm_up) {
    return LoadGroup(Options(warm_up));
  }
  static std::string Refusal(const LoadOptions& options) {
    return std::string(CheckLoad(options).message());
  }
};

TEST_F(LoadTest, RefusesASizeBeforeItReadsWeights) {
  const absl::Status status = Load("64x64,64x1000").status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("--warm-up: 64x1000: height 1000 is not a multiple of "));
  EXPECT_THAT(std::string(Load("2064x2064").status().message()),
              HasSubstr("4260096 pixels are above the limit of 4194304"));
}

TEST_F(LoadTest, IsCheckedWithoutWeights) {
  EXPECT_EQ(Refusal(Options("64x64", "pipefusion=2")), "");
  EXPECT_EQ(Refusal(Options("64x1000")), Load("64x1000").status().message());
  EXPECT_THAT(Refusal(Options("", "ulysses=3")),
              HasSubstr("4 heads can't be divided over 3 ranks"));
  LoadOptions absent = Options("");
  absent.model_dir = "models/absent";
  EXPECT_THAT(Refusal(absent), HasSubstr("models/absent"));
}

TEST_F(LoadTest, RefusesALayoutForWhichItsOwnSizeHasTooFewTokens) {
  EXPECT_THAT(Refusal(Options("", "pipefusion=2,patches=257")),
              HasSubstr("--warm-up: 256x256: layout: 'pipefusion=2,patches=257,warmup_steps=1' "
                        "divides an image into 257 shares"));
  EXPECT_EQ(Refusal(Options("", "pipefusion=2,patches=256")), "");
}

TEST_F(LoadTest, RemembersWhatEverySizeTook) {
  const auto loaded = Load("64x32,32x64");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_GT(loaded->offer.warmup_time, absl::ZeroDuration());
}

}  // namespace
}  // namespace patchflow
