// Ranks that each hold the whole text encoder encode the next text beside the denoising of the
// image before: it is there in no time, and no bit of an image is another.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "engine/device.h"
#include "tests/worker/placed_images.h"
#include "worker/load.h"

namespace patchflow {
namespace {

bool OnGpus() { return std::getenv("PATCHFLOW_TEST_GPU") != nullptr; }

LoadedGroup LoadRanks(const std::string& layout) {
  LoadOptions options;
  options.model_dir = kBundledModel;
  options.layout = ParseLayout(layout).value();
  options.devices = ChooseDevices(OnGpus() ? "cuda" : "cpu", OnGpus() ? "bfloat16" : "float32",
                                  options.layout.ranks(), 0)
                        .value();
  options.warm_up = {{64, 48}};
  return LoadGroup(options).value();
}

class TextAheadRanksTest : public ::testing::TestWithParam<std::string> {
 protected:
  TextAheadRanksTest() : plain_(LoadRanks(GetParam())), hinted_(LoadRanks(GetParam())) {}

  static ImageRequest NumberedRequest(int number, double guidance_scale = 4.5) {
    ImageRequest request = RequestOf(64, 4);
    request.height_px = 48;
    request.prompt = "a red star, number " + std::to_string(number);
    request.guidance_scale = guidance_scale;
    request.seed = static_cast<uint64_t>(number);
    return request;
  }
  // Offers the texts of `next` when the denoising begins.
  static Generated Make(const LoadedGroup& loaded, const ImageRequest& request,
                        const ImageRequest* next = nullptr) {
    bool offered = false;
    auto made = loaded.group->Run(request, {}, [&](Phase phase, int /*steps_done*/) {
      if (phase != Phase::kDenoise || next == nullptr || offered) return;
      offered = true;
      for (const auto& hints : loaded.text_hints) {
        hints->Offer({next->prompt, next->negative_prompt});
      }
    });
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }

  const LoadedGroup plain_;
  const LoadedGroup hinted_;
};

std::vector<std::string> Layouts() {
  std::vector<std::string> layouts = {"ulysses=2", "pipefusion=2,patches=2,warmup_steps=1",
                                      "tensor=2"};
  std::erase_if(layouts, [](const std::string& layout) {
    return OnGpus() && ParseLayout(layout).value().ranks() > CudaDeviceCount();
  });
  return layouts;
}
INSTANTIATE_TEST_SUITE_P(Layouts, TextAheadRanksTest, testing::ValuesIn(Layouts()));
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TextAheadRanksTest);

TEST_P(TextAheadRanksTest, TheNextTextTakesNoTime) {
  ASSERT_EQ(hinted_.text_hints.size(), 2U);
  Make(plain_, NumberedRequest(0));
  bool took_none = false;
  for (int i = 1; i < 20 && !took_none; i += 2) {  // A busy machine may stop either at any time.
    const ImageRequest next = NumberedRequest(i + 1);
    Make(hinted_, NumberedRequest(i), &next);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    took_none = Make(hinted_, next).times.text < Make(plain_, next).times.text / 4;
  }
  EXPECT_TRUE(took_none);
}

// With no pause between the requests, so that ranks encode texts at any moment of them.
TEST_P(TextAheadRanksTest, NoImageIsAnother) {
  constexpr int kRequests = 12;
  for (int i = 0; i < kRequests; ++i) {
    const ImageRequest request = NumberedRequest(i, i % 3 == 0 ? 1 : 4.5);
    // Every fourth hint is for a request that does not come.
    const ImageRequest next = NumberedRequest(i % 4 == 3 ? 1000 + i : i + 1);
    const Generated hinted = Make(hinted_, request, &next);
    EXPECT_EQ(hinted.image->pixels, Make(plain_, request).image->pixels) << i;
  }
}

// As if each rank took hints at another time than the others, or none.
TEST_P(TextAheadRanksTest, RanksNeedNotHaveEncodedTheSame) {
  for (int i = 0; i < 4; ++i) {
    const ImageRequest next = NumberedRequest(i);
    hinted_.text_hints[static_cast<size_t>(i % 2)]->Offer({next.prompt});
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(Make(hinted_, next).image->pixels, Make(plain_, next).image->pixels) << i;
  }
}

TEST(TextAheadTest, RanksThatShareTheTextEncoderFollowNoHints) {
  if (OnGpus() && CudaDeviceCount() < 2) GTEST_SKIP() << "needs 2 GPUs";
  EXPECT_TRUE(LoadRanks("ulysses=2,shared_text=1").text_hints.empty());
}

}  // namespace
}  // namespace patchflow
