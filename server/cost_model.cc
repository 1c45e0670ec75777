#include "server/cost_model.h"

#include <algorithm>
#include <vector>

namespace patchflow {
namespace {

constexpr double kWeightOfNew = 0.2;
constexpr size_t kRecent = 32;
constexpr int kMinSamples = 5;
constexpr size_t kMaxShapes = 4096;

absl::Duration FastestTenth(std::vector<absl::Duration> times) {
  auto tenth = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 10);
  std::nth_element(times.begin(), tenth, times.end());
  return *tenth;
}

}  // namespace

CostModel::Shape CostModel::ShapeOf(const std::string& plan, const v1::EffectiveParams& params) {
  return {plan, params.width(), params.height(), params.guidance_scale() != 1.0F};
}

void CostModel::Record(const std::string& plan, const v1::EffectiveParams& params,
                       absl::Duration overhead, absl::Duration denoise) {
  const Estimate sample{overhead, denoise / std::max(1, params.steps()), 1, 1};
  std::lock_guard<std::mutex> lock(mutex_);
  const Shape shape = ShapeOf(plan, params);
  if (learned_.size() >= kMaxShapes && learned_.count(shape) == 0) {
    learned_.erase(learned_.begin());
  }
  Learned& learned = learned_[shape];
  Estimate& average = learned.average;
  const double weight = average.samples == 0 ? 1.0 : kWeightOfNew;
  average.overhead += weight * (sample.overhead - average.overhead);
  average.step += weight * (sample.step - average.step);
  ++average.samples;
  learned.recent.push_back(sample);
  if (learned.recent.size() > kRecent) {
    learned.recent.pop_front();
  }
}

std::optional<Estimate> CostModel::Expect(const std::string& plan,
                                          const v1::EffectiveParams& params, int batch_size) const {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = learned_.find(ShapeOf(plan, params));
  if (found == learned_.end()) {
    return std::nullopt;
  }
  Estimate expected = found->second.average;
  expected.batch_size = batch_size;
  return expected;
}

std::optional<Estimate> CostModel::ExpectAtBest(const std::string& plan,
                                                const v1::EffectiveParams& params,
                                                int batch_size) const {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = learned_.find(ShapeOf(plan, params));
  if (found == learned_.end() || found->second.average.samples < kMinSamples) {
    return std::nullopt;
  }
  std::vector<absl::Duration> overheads;
  std::vector<absl::Duration> steps;
  for (const Estimate& sample : found->second.recent) {
    overheads.push_back(sample.overhead);
    steps.push_back(sample.step);
  }
  return Estimate{FastestTenth(std::move(overheads)), FastestTenth(std::move(steps)),
                  found->second.average.samples, batch_size};
}

}  // namespace patchflow
