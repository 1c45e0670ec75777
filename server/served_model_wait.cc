// How long a model lets wait.
#include <algorithm>
#include <functional>
#include <map>
#include <tuple>
#include <utility>

#include "server/errors.h"
#include "server/pass_shape.h"
#include "server/served_model.h"

namespace patchflow {
namespace {

// Until a group that is lost has loaded again, if it takes as long as the last time; nothing if it
// takes longer, or that is not known.
std::optional<absl::Duration> TimeToLoad(const Group& group) {
  const auto info = group.info();
  const absl::Duration left = info == nullptr || !info->has_load_time()
                                  ? absl::ZeroDuration()
                                  : FromProto(info->load_time()) - group.OutOfServiceFor();
  return left > absl::ZeroDuration() ? std::optional(left) : std::nullopt;
}

// Looks the estimate of each shape up once: many that wait are alike.
class Estimates {
 public:
  using LookUp = std::function<std::optional<Estimate>(const v1::EffectiveParams&)>;
  explicit Estimates(LookUp look_up) : look_up_(std::move(look_up)) {}

  const std::optional<Estimate>& Of(const v1::EffectiveParams& params) {
    const std::tuple shape(params.width(), params.height(), params.guidance_scale());
    auto [found, fresh] = known_.try_emplace(shape);
    if (fresh) {
      found->second = look_up_(params);
    }
    return found->second;
  }

 private:
  const LookUp look_up_;
  std::map<std::tuple<int, int, float>, std::optional<Estimate>> known_;
};

// Images by what shares a pass. Lives no longer than the parameters that it is given.
class Waiting {
 public:
  void Add(const v1::EffectiveParams& params, int images) {
    auto& [known, sum] = shapes_[PassShapeOf(params)];
    known = &params;
    sum += images;
  }
  // Nothing if the cost of a shape is unknown.
  std::optional<absl::Duration> Work(Estimates& estimates) const {
    absl::Duration work;
    for (const auto& [shape, waiting] : shapes_) {
      const auto& [params, images] = waiting;
      const auto& estimate = estimates.Of(*params);
      if (!estimate.has_value()) {
        return std::nullopt;
      }
      work += estimate->Images(images, params->steps());
    }
    return work;
  }

 private:
  std::map<PassShape, std::pair<const v1::EffectiveParams*, int>> shapes_;
};

}  // namespace

std::optional<absl::Duration> ServedModel::EstimateWait(
    const std::string& plan_digest, const std::vector<std::shared_ptr<Generation>>& ahead) const {
  std::vector<Group*> groups;
  int coming = 0;
  absl::Duration loading = absl::InfiniteDuration();  // Of the first of them.
  for (Group* group : GroupsOf(plan_digest)) {
    if (group->state() == GroupState::kServing) {
      groups.push_back(group);
    } else if (const auto left = TimeToLoad(*group)) {
      ++coming;
      loading = std::min(loading, *left);
    }
  }
  if (groups.empty() && coming == 0) {
    return std::nullopt;
  }
  Estimates estimates([&, batch_size = BatchSizeOf(plan_digest)](const auto& params) {
    return costs_.Expect(plan_digest, params, batch_size);
  });
  absl::Duration work;
  bool idle = false;
  for (const Group* group : groups) {
    const auto running = group->running();
    idle = idle || running.empty();
    Waiting left;
    absl::Duration done = absl::InfiniteDuration();  // Of the steps that they share.
    for (const auto& generation : running) {
      const v1::EffectiveParams& params = generation->spec().params();
      const auto& estimate = estimates.Of(params);
      if (!estimate.has_value()) {
        return std::nullopt;
      }
      const Standing standing = generation->standing();
      left.Add(params, params.count() - standing.images_done);
      done = std::min(done, standing.step * estimate->step);
    }
    if (!running.empty()) {
      work += std::max(absl::ZeroDuration(), left.Work(estimates).value() - done);
    }
  }
  if (idle && ahead.empty()) {
    return absl::ZeroDuration();
  }
  Waiting waiting;
  for (const auto& generation : ahead) {
    waiting.Add(generation->spec().params(), generation->spec().params().count());
  }
  const std::optional<absl::Duration> waits = waiting.Work(estimates);
  if (!waits.has_value()) {
    return std::nullopt;
  }
  return groups.empty() ? loading + *waits / coming
                        : (work + *waits) / static_cast<int64_t>(groups.size());
}

absl::Duration ServedModel::BestWait(const std::string& plan_digest,
                                     const v1::EffectiveParams& params,
                                     const std::vector<std::shared_ptr<Generation>>& ahead) const {
  const int batch_size = BatchSizeOf(plan_digest);
  Estimates estimates(
      [&](const auto& of) { return costs_.ExpectAtBest(plan_digest, of, batch_size); });
  absl::Duration work;
  int alike = 0;  // Images that find room wherever it does.
  for (const auto& generation : ahead) {
    const v1::EffectiveParams& other = generation->spec().params();
    if (batch_size > 1) {
      alike += other.count() == 1 && PassShapeOf(other) == PassShapeOf(params) ? 1 : 0;
    } else if (const auto& estimate = estimates.Of(other)) {
      work += estimate->Run(other);
    }
  }
  if (const auto& estimate = estimates.Of(params)) {
    work += estimate->Images(alike / batch_size * batch_size, params.steps());
  }
  const auto groups = static_cast<int64_t>(GroupsOf(plan_digest).size());
  return work / std::max<int64_t>(1, groups);
}

}  // namespace patchflow
