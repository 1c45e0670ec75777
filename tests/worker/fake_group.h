// A loaded group of fake engines.
#pragma once

#include <memory>
#include <utility>

#include "tests/worker/fake_engine.h"
#include "worker/worker.h"

namespace patchflow {

inline absl::StatusOr<std::unique_ptr<RankGroup>> StartFakeGroup(
    int ranks, const FakeEngineOptions& engine,
    absl::Duration first_run_timeout = absl::Seconds(10)) {
  RankGroupOptions options;
  options.ranks = ranks;
  options.first_run_timeout = first_run_timeout;
  options.abort_timeout = absl::Milliseconds(300);
  options.make_engine = [engine](int rank) -> absl::StatusOr<std::unique_ptr<Engine>> {
    FakeEngineOptions own = engine;
    own.rank = rank;
    return std::make_unique<FakeEngine>(own);
  };
  return RankGroup::Start(std::move(options));
}

inline absl::StatusOr<LoadedGroup> LoadFakeGroup(
    int ranks, const FakeEngineOptions& engine,
    absl::Duration first_run_timeout = absl::Seconds(10)) {
  auto group = StartFakeGroup(ranks, engine, first_run_timeout);
  if (!group.ok()) return group.status();
  LoadedGroup loaded;
  loaded.offer.description = (*group)->description();
  loaded.offer.model_digest = "digest of the model";
  loaded.offer.plan_digest = "digest of the plan";
  loaded.offer.dtype = "float32";
  loaded.offer.device = "cpu";
  loaded.offer.max_pixels = 1 << 20;
  loaded.offer.warmup_time = absl::Milliseconds(3);
  loaded.group = *std::move(group);
  return loaded;
}

}  // namespace patchflow
