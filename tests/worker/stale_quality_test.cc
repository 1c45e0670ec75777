// How far the stale methods are from one rank, by warm-up steps and patches. Prints the table of
// parallel/README.md.
#include <gtest/gtest.h>

#include <cstdio>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/worker/placed_images.h"

namespace patchflow {
namespace {

constexpr int kSizePx = 256;
constexpr int kSteps = 20;
constexpr const char* kPrompts[] = {
    "a red circle above a cat on a light blue background",
    "a green star to the left of a yellow square",
    "a tiger below a purple heart on a white background",
};

double MeanPsnrDb(const std::string& layout, const std::vector<Image>& serial) {
  double sum = 0;
  for (size_t i = 0; i < serial.size(); ++i) {
    ImageRequest request = RequestOf(kSizePx, kSteps);
    request.prompt = kPrompts[i];
    sum += PsnrDb(MakeImage(layout, request), serial[i]);
  }
  return sum / static_cast<double>(serial.size());
}

TEST(StaleQuality, StaysNearOneRankAndDiffersFromIt) {
  std::vector<Image> serial;
  for (const char* prompt : kPrompts) {
    ImageRequest request = RequestOf(kSizePx, kSteps);
    request.prompt = prompt;
    serial.push_back(MakeImage("serial", request));
  }
  const std::vector<std::string> methods = {"pipefusion=2,patches=2", "pipefusion=2,patches=4",
                                            "pipefusion=2,patches=8", "distrifusion=2",
                                            "distrifusion=4"};
  for (const std::string& method : methods) {
    std::vector<double> psnr_db;
    for (const int warmup_steps : {1, 2, 4}) {
      psnr_db.push_back(MeanPsnrDb(absl::StrCat(method, ",warmup_steps=", warmup_steps), serial));
    }
    std::printf("| `%s` | %.1f | %.1f | %.1f |\n", method.c_str(), psnr_db[0], psnr_db[1],
                psnr_db[2]);
    EXPECT_GE(psnr_db[0], 20) << method;
    EXPECT_LT(psnr_db[0], 60) << method;
  }
}

}  // namespace
}  // namespace patchflow
