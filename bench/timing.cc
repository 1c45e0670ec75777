#include "bench/timing.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "bench/marks.h"

namespace patchflow {

Quantiles QuantilesOf(std::vector<double> times_ms) {
  std::sort(times_ms.begin(), times_ms.end());
  const auto at = [&](double part) {
    return times_ms[static_cast<size_t>(part * static_cast<double>(times_ms.size() - 1) + 0.5)];
  };
  return {at(0.1), at(0.5), at(0.9)};
}

Quantiles TimeOf(at::Device device, const std::function<void()>& run, Repeats repeats, int burst) {
  std::vector<double> times_ms;
  for (int i = 0; i < repeats.warm_up + repeats.measured; ++i) {
    const std::unique_ptr<Marks> marks = MakeMarks(device);
    marks->Set();
    for (int j = 0; j < burst; ++j) run();
    marks->Set();
    const double ms = marks->Between().front() / burst;
    if (i >= repeats.warm_up) times_ms.push_back(ms);
  }
  return QuantilesOf(std::move(times_ms));
}

}  // namespace patchflow
