// Previews of the bundled model.
#include "engine/preview.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <iostream>
#include <map>
#include <vector>

#include "engine/engine.h"

namespace patchflow {
namespace {

using testing::ElementsAre;

class Patient final : public RequestMonitor {
 public:
  void Enter(Phase /*phase*/) override {}
  void StepsDone(int /*steps*/) override {}
  bool Continue(int /*step*/) override { return true; }
};

double SecondsOf(const std::function<void()>& run) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The mean of every so many pixels a side.
Image ShrunkBy(const Image& image, int factor) {
  Image small{image.width_px / factor, image.height_px / factor, {}};
  for (int y = 0; y < small.height_px; ++y) {
    for (int x = 0; x < small.width_px; ++x) {
      for (int colour = 0; colour < 3; ++colour) {
        int sum = 0;
        for (int i = 0; i < factor * factor; ++i) {
          const int row = y * factor + i / factor;
          const int column = x * factor + i % factor;
          sum += image.pixels.at(static_cast<size_t>((row * image.width_px + column) * 3 + colour));
        }
        small.pixels.push_back(static_cast<uint8_t>(sum / (factor * factor)));
      }
    }
  }
  return small;
}

double PsnrDb(const Image& a, const Image& b) {
  if (a.pixels.empty() || a.pixels.size() != b.pixels.size()) return 0;
  double squares = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) {
    const double difference = a.pixels[i] - b.pixels[i];
    squares += difference * difference;
  }
  return 10 * std::log10(255.0 * 255.0 * static_cast<double>(a.pixels.size()) / squares);
}

ImageRequest RequestOf(const std::string& prompt, int steps, const char* scheduler) {
  ImageRequest request;
  request.prompt = prompt;
  request.width_px = request.height_px = 256;
  request.steps = steps;
  request.scheduler = scheduler;
  request.seed = 3;
  return request;
}

class PreviewTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { engine_ = Load(/*shows_previews=*/true); }
  static void TearDownTestSuite() { engine_.reset(); }

  static std::unique_ptr<Engine> Load(bool shows_previews) {
    EnginePorts ports;
    ports.shows_previews = shows_previews;
    auto engine = Engine::Load({.model_dir = "models/shapes-256"}, std::move(ports));
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }
  static Image Make(Engine& engine, const ImageRequest& request) {
    Patient monitor;
    auto made = engine.Generate(request, monitor);
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made->image);
  }
  // The image, with previews drawn when all is over.
  static Image Make(Engine& engine, ImageRequest request, int every_steps, int max_edge_px,
                    std::map<int, Image>& previews) {
    std::map<int, DrawPreview> draws;
    request.preview = {.every_steps = every_steps,
                       .max_edge_px = max_edge_px,
                       .show = [&](int steps_done, DrawPreview draw) {
                         EXPECT_TRUE(draws.emplace(steps_done, std::move(draw)).second);
                       }};
    Image image = Make(engine, request);
    for (auto& [step, draw] : draws) previews[step] = draw();
    return image;
  }
  static std::vector<int> StepsOf(const std::map<int, Image>& previews) {
    std::vector<int> steps;
    for (const auto& [step, image] : previews) steps.push_back(step);
    return steps;
  }

  static std::unique_ptr<Engine> engine_;
};
std::unique_ptr<Engine> PreviewTest::engine_;

TEST_F(PreviewTest, AreShownEverySoManyStepsAndChangeNoByteOfTheImage) {
  for (const char* scheduler : {"dpm-solver++", "ddim", "euler"}) {
    ImageRequest request = RequestOf("a red star", 5, scheduler);
    request.width_px = request.height_px = 128;
    const Image plain = Make(*engine_, request);
    std::map<int, Image> previews;
    EXPECT_EQ(Make(*engine_, request, 2, 0, previews).pixels, plain.pixels) << scheduler;
    EXPECT_THAT(StepsOf(previews), ElementsAre(2, 4));
    previews.clear();
    EXPECT_EQ(Make(*engine_, request, 1, 32, previews).pixels, plain.pixels) << scheduler;
    EXPECT_THAT(StepsOf(previews), ElementsAre(1, 2, 3, 4, 5));
    EXPECT_EQ(previews[1].width_px, 32);  // Twice the latents.
    previews.clear();
    Make(*engine_, request, 6, 0, previews);
    EXPECT_TRUE(previews.empty());
  }
}

TEST_F(PreviewTest, TheLastIsCloseToTheImage) {
  double sum_db = 0;
  const std::vector<std::string> prompts = {
      "a red star", "a red circle above a cat on a light blue background",
      "a green square left of a yellow triangle on a black background",
      "a purple circle on a white background"};
  for (const std::string& prompt : prompts) {
    std::map<int, Image> previews;
    const Image image =
        Make(*engine_, RequestOf(prompt, 8, "dpm-solver++"), 1, /*max_edge_px=*/32, previews);
    const Image small = ShrunkBy(image, 8);
    const double last_db = PsnrDb(previews.at(8), small);
    std::cout << prompt << ": " << PsnrDb(previews.at(1), small) << " dB after 1 step, "
              << PsnrDb(previews.at(4), small) << " after 4, " << last_db << " after 8\n";
    EXPECT_GT(last_db, 11);
    sum_db += last_db;
  }
  EXPECT_GT(sum_db / static_cast<double>(prompts.size()), 16);
}

TEST_F(PreviewTest, AnEngineThatShowsNoneTakesPartAlone) {
  const std::unique_ptr<Engine> other = Load(/*shows_previews=*/false);
  std::map<int, Image> previews;
  const ImageRequest request = RequestOf("a red star", 2, "ddim");
  EXPECT_EQ(Make(*other, request, 1, 0, previews).pixels, Make(*engine_, request).pixels);
  EXPECT_TRUE(previews.empty());
}

TEST_F(PreviewTest, NumbersBelowZeroAreRefusedByName) {
  ImageRequest request = RequestOf("a red star", 2, "ddim");
  request.preview.every_steps = -1;
  Patient monitor;
  const auto made = engine_->Generate(request, monitor);
  EXPECT_TRUE(absl::IsInvalidArgument(made.status()));
  EXPECT_THAT(std::string(made.status().message()), testing::HasSubstr("every_steps -1"));
}

TEST_F(PreviewTest, CostLittle) {
  const std::unique_ptr<Engine> fresh = Load(/*shows_previews=*/true);
  const ImageRequest request = RequestOf("a red star", 8, "dpm-solver++");
  Make(*fresh, request);
  std::vector<DrawPreview> draws;
  ImageRequest viewed = request;
  viewed.preview = {.every_steps = 1, .max_edge_px = 0, .show = [&](int, DrawPreview draw) {
                      draws.push_back(std::move(draw));
                    }};
  const double first_s = SecondsOf([&] { Make(*fresh, viewed); });
  const double next_s = SecondsOf([&] { Make(*fresh, viewed); });
  const double plain_s = SecondsOf([&] { Make(*fresh, request); });
  std::string file;
  const double show_s = SecondsOf([&] {
    for (const DrawPreview& draw : draws) {
      file = EncodeImage(draw(), {.format = ImageFormat::kPng, .threads = 1}).value();
    }
  });
  const double draw_ms = 1000 * show_s / static_cast<double>(draws.size());
  std::cout << "8 steps of 256 px: " << plain_s << " s without previews, " << next_s
            << " s with one a step, " << first_s << " s with the fit before them; drawing and "
            << "encoding one, on another thread, " << draw_ms << " ms, " << file.size()
            << " bytes\n";
  EXPECT_LT(draw_ms, 50);
}

}  // namespace
}  // namespace patchflow
