// Counts what a rank sends, and how long it waits for that.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "parallel/world.h"

namespace patchflow {

enum class Operation { kAllReduceSum, kAllGather, kAllToAll, kSend, kCount };

// Bytes that leave this rank, as the usual algorithms send them, n being the ranks:
//   all-reduce  2 (n - 1) / n of the tensor   (ring)
//   all-gather  (n - 1) times the input
//   all-to-all  (n - 1) / n of the input
//   send        the tensor, alone or grouped; receives are not counted
// Replays of a captured StepGraph count as what was captured.
// Times are what the rank waits for others. On CPUs of the host: in the call that issues the
// operation, and in the wait for it. Between GPUs, where the host waits for nothing, of the rank's
// stream: how long it stands still in the wait, so that what hides behind kernels does not count;
// of captured steps one replay in 16 is timed and counts as 16 (engine/stream_waits.h), and times
// come when the device has passed them. Receives count as sends. Thread-safe.
class Traffic {
 public:
  struct Count {
    int64_t calls = 0;
    int64_t bytes = 0;
    std::chrono::nanoseconds time{0};
  };
  void Add(Operation operation, int64_t bytes);
  void AddTime(Operation operation, std::chrono::nanoseconds time);
  Count Of(Operation operation) const;
  Count Total() const;

 private:
  struct Cell {
    std::atomic<int64_t> calls{0};
    std::atomic<int64_t> bytes{0};
    std::atomic<int64_t> time_ns{0};
  };
  std::array<Cell, static_cast<size_t>(Operation::kCount)> cells_;
};

// Splits counting communicators off `inner`, which outlives it as it outlives its communicators.
class CountingWorld final : public World {
 public:
  explicit CountingWorld(World& inner) : inner_(inner) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  std::unique_ptr<Communicator> Split(int color, std::string_view name) override;
  void Abort(const std::string& reason) override { inner_.Abort(reason); }

  // Of every communicator with this name so far. Thread-safe, as Total() is.
  Traffic::Count Of(std::string_view name) const;
  Traffic::Count Of(std::string_view name, Operation operation) const;
  Traffic::Count Total() const;
  // Over all communicators.
  Traffic::Count Total(Operation operation) const;

 private:
  World& inner_;
  mutable std::mutex mutex_;
  std::vector<std::pair<std::string, std::shared_ptr<Traffic>>> traffic_;
};

}  // namespace patchflow
