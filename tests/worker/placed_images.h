// Images of the bundled model by all ranks of a layout, and how far apart two images are.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/parallel/run_ranks.h"
#include "worker/placed_engine.h"

namespace patchflow {

inline constexpr const char* kBundledModel = "models/shapes-256";

class SilentMonitor final : public RequestMonitor {
 public:
  bool Continue(int /*step*/) override { return true; }
  void Enter(Phase /*phase*/) override {}
  void StepsDone(int /*steps*/) override {}
};

inline ImageRequest RequestOf(int size_px, int steps) {
  ImageRequest request;
  request.prompt = "a red circle above a cat on a light blue background";
  request.width_px = request.height_px = size_px;
  request.steps = steps;
  request.scheduler = "dpm-solver++";
  request.seed = 3;
  return request;
}

// By all ranks of the layout; rank 0's, which alone has any: the request's own, then those beside.
inline std::vector<Image> MakeImages(const std::string& layout_text, const ImageRequest& request) {
  const Layout layout = ParseLayout(layout_text).value();
  const ModelDescription description = DescribeModel(kBundledModel).value();
  std::vector<Image> made;
  RunRanks(layout.ranks(), [&](const Rank& rank) {
    auto engine =
        LoadPlacedEngine({.model_dir = kBundledModel, .device = rank.device, .dtype = RanksDtype()},
                         layout, description.transformer, rank.world);
    if (!engine.ok()) throw std::runtime_error(engine.status().ToString());
    SilentMonitor monitor;
    auto generated = (*engine)->Generate(request, monitor);
    if (!generated.ok()) throw std::runtime_error(generated.status().ToString());
    EXPECT_EQ(generated->image.has_value(), rank.index() == 0);
    EXPECT_EQ(generated->beside.size(), rank.index() == 0 ? request.beside.size() : 0);
    if (!generated->image) return;
    made.push_back(*std::move(generated->image));
    for (Image& image : generated->beside) made.push_back(std::move(image));
  });
  return made;
}

inline Image MakeImage(const std::string& layout_text, const ImageRequest& request) {
  return MakeImages(layout_text, request).at(0);
}

inline int LargestDifference(const Image& a, const Image& b) {
  if (a.pixels.empty() || a.pixels.size() != b.pixels.size()) return 255;
  int largest = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) {
    largest = std::max(largest, std::abs(a.pixels[i] - b.pixels[i]));
  }
  return largest;
}

// Of identical images: 99.
inline double PsnrDb(const Image& a, const Image& b) {
  if (a.pixels.empty() || a.pixels.size() != b.pixels.size()) return 0;
  double squares = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) {
    const double difference = a.pixels[i] - b.pixels[i];
    squares += difference * difference;
  }
  constexpr double kPeak = 255.0 * 255.0;
  return squares == 0 ? 99
                      : 10 * std::log10(kPeak * static_cast<double>(a.pixels.size()) / squares);
}

}  // namespace patchflow
