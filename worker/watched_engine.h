// What watches the ranks of this process: the black box, and orders to fail.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "parallel/layout.h"
#include "parallel/world.h"
#include "worker/black_box.h"
#include "worker/fault_injection.h"
#include "worker/flags.h"

namespace patchflow {

// Copies share both, which live as long as the process.
struct RankWatch {
  BlackBox* black_box = nullptr;    // Null: nothing is recorded.
  FaultInjector* faults = nullptr;  // Null: no orders.
  int warm_up_images = 1;           // The first ones of each rank.
  // Errors of NCCL, and operations that it did not end in time.
  std::shared_ptr<std::atomic<int64_t>> nccl_errors = std::make_shared<std::atomic<int64_t>>(0);

  // At a fault of the group, before its ranks are told.
  void OnFault(const std::string& why) const;
  // See EncoderOptions.
  std::function<void()> BeforeEncode() const;
};

// Opens what the flags name, and catches fatal signals. UNAVAILABLE for a black box that can't be
// written.
absl::StatusOr<RankWatch> StartWatch(const WorkerFlags& flags);

// LoadPlacedEngine() for a rank that is recorded and obeys orders, as far as `watch` says.
absl::StatusOr<std::unique_ptr<Engine>> LoadWatchedEngine(const RankWatch& watch,
                                                          const EngineOptions& options,
                                                          const Layout& layout,
                                                          const TransformerConfig& model,
                                                          World& world);

}  // namespace patchflow
