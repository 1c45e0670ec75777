// Faults to order, for `patchflow chaos` and tests: the only place where this worker breaks itself.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "engine/engine.h"
#include "parallel/world.h"

namespace patchflow {

enum class FaultKind {
  kKill,         // SIGKILL to this process.
  kStop,         // SIGSTOP to this process.
  kHang,         // The thread sleeps for ever.
  kThrow,        // An exception.
  kSkip,         // The rank's next operation of a communicator is not called.
  kOutOfMemory,  // More memory is asked of the device than there can be.
  kNan,          // What the rank's next operation of a communicator brings becomes NaN.
};
enum class FaultPlace {
  kLoad,    // When the weights are read.
  kWarmUp,  // Before the second step of an image of the warm-up.
  kText,
  kStep,  // Before the second step of a later image.
  kDecode,
  kEncode,  // On the thread that encodes; there are no operations of communicators.
};

struct FaultOrder {
  FaultKind kind;
  FaultPlace place;
  int rank = 0;
};
// "KIND PLACE RANK", KIND of kill, stop, hang, throw, skip, oom, nan, PLACE of load, warm-up, text,
// step, decode, encode: "hang step 1". Nothing for any other text.
std::optional<FaultOrder> ParseFaultOrder(const std::string& text);

// Exists only in workers that were started with --fault-orders. Thread-safe.
class FaultInjector {
 public:
  // `orders`: the file that holds an order, or does not exist. Whoever obeys it removes it first,
  // so that every order is obeyed once, and logs "fault injected".
  explicit FaultInjector(std::string orders) : orders_(std::move(orders)) {}

  // What rank `rank` is to suffer now at `place`, which is removed. One system call where there is
  // no order.
  std::optional<FaultKind> Take(FaultPlace place, int rank);
  // Takes, and does it. Memory is asked of `device`.
  void At(FaultPlace place, int rank, at::Device device);

 private:
  const std::string orders_;
};

// The faults of one rank. Used by the rank's thread; `injector` must outlive it.
class RankFaults {
 public:
  // The first `warm_up_images` are the warm-up.
  RankFaults(FaultInjector& injector, int rank, at::Device device, int warm_up_images = 1)
      : injector_(injector), rank_(rank), device_(device), warm_up_images_(warm_up_images) {}

  void At(FaultPlace place);
  void BeginImage() { ++images_; }
  bool warms_up() const { return images_ <= warm_up_images_; }
  // The fault that waits for an operation of a communicator.
  std::optional<FaultKind> TakePending();

 private:
  FaultInjector& injector_;
  const int rank_;
  const at::Device device_;
  const int warm_up_images_;
  int images_ = 0;
  std::optional<FaultKind> pending_;
};

// Splits communicators that obey orders. `inner` must outlive it and its communicators.
class FaultyWorld final : public World {
 public:
  FaultyWorld(World& inner, std::shared_ptr<RankFaults> faults)
      : inner_(inner), faults_(std::move(faults)) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  std::unique_ptr<Communicator> Split(int color, std::string_view name) override;
  void Abort(const std::string& reason) override { inner_.Abort(reason); }

 private:
  World& inner_;
  const std::shared_ptr<RankFaults> faults_;
};

// An engine that obeys orders in text, step and decode, and in the first image's steps.
std::unique_ptr<Engine> MakeFaulty(std::unique_ptr<Engine> engine,
                                   std::shared_ptr<RankFaults> faults);

}  // namespace patchflow
