#include "server/queued_work.h"

namespace patchflow {
namespace {

absl::Duration RunOf(const Generation& generation) {
  const GenerationSpec& spec = generation.spec();
  return spec.estimate.has_value() ? spec.estimate->Run(spec.params()) : absl::ZeroDuration();
}

bool MayShare(const Generation& generation) {
  const GenerationSpec& spec = generation.spec();
  return spec.estimate.has_value() && spec.estimate->batch_size > 1 && spec.params().count() == 1 &&
         !generation.suspect();
}

}  // namespace

absl::Duration QueuedWork::Shared::Work(int rows) const {
  return images == 0 ? absl::ZeroDuration() : passes / images * ((images + rows - 1) / rows);
}

QueuedWork::Shape QueuedWork::ShapeOf(const Generation& generation) {
  const GenerationSpec& spec = generation.spec();
  const v1::EffectiveParams& params = spec.params();
  return {spec.accepted.plan_digest(), params.width(),     params.height(),          params.steps(),
          params.guidance_scale(),     params.scheduler(), spec.estimate->batch_size};
}

void QueuedWork::Change(const Generation& generation, int by) {
  if (!MayShare(generation)) {
    total_ += by * RunOf(generation);
    return;
  }
  const int rows = generation.spec().estimate->batch_size;
  const auto found = shared_.try_emplace(ShapeOf(generation)).first;
  Shared& shared = found->second;
  total_ -= shared.Work(rows);
  shared.images += by;
  shared.passes += by * RunOf(generation);
  total_ += shared.Work(rows);
  if (shared.images == 0) {
    shared_.erase(found);
  }
}

void QueuedWork::Add(const Generation& generation) { Change(generation, 1); }

void QueuedWork::Remove(const Generation& generation) { Change(generation, -1); }

absl::Duration QueuedWork::With(const Generation& generation) const {
  if (!MayShare(generation)) {
    return total_ + RunOf(generation);
  }
  const int rows = generation.spec().estimate->batch_size;
  const auto found = shared_.find(ShapeOf(generation));
  Shared shared = found == shared_.end() ? Shared() : found->second;
  const absl::Duration before = shared.Work(rows);
  ++shared.images;
  shared.passes += RunOf(generation);
  return total_ - before + shared.Work(rows);
}

}  // namespace patchflow
