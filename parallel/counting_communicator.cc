#include "parallel/counting_communicator.h"

#include <ATen/ATen.h>

#include "engine/step_graph.h"
#include "engine/stream_waits.h"

namespace patchflow {
namespace {

void AddTo(Traffic::Count& sum, Traffic::Count part) {
  sum.calls += part.calls;
  sum.bytes += part.bytes;
  sum.time += part.time;
}

int64_t Bytes(const Tensor& t) { return static_cast<int64_t>(t.nbytes()); }

using Clock = std::chrono::steady_clock;

// An operation whose wait is timed: on the host, or on the stream.
class TimedWork final : public Pending::Work {
 public:
  TimedWork(Pending inner, std::shared_ptr<Traffic> traffic, Operation operation, bool on_host)
      : inner_(std::move(inner)),
        traffic_(std::move(traffic)),
        operation_(operation),
        on_host_(on_host) {}
  void Wait() override {
    if (!on_host_) {
      TimeWait([this] { inner_.Wait(); },
               [traffic = traffic_, operation = operation_](std::chrono::nanoseconds time) {
                 traffic->AddTime(operation, time);
               });
      return;
    }
    const Clock::time_point begin = Clock::now();
    inner_.Wait();
    traffic_->AddTime(operation_, Clock::now() - begin);
  }

 private:
  Pending inner_;
  const std::shared_ptr<Traffic> traffic_;
  const Operation operation_;
  const bool on_host_;
};

class CountingCommunicator final : public Communicator {
 public:
  CountingCommunicator(std::unique_ptr<Communicator> inner, std::shared_ptr<Traffic> traffic)
      : inner_(std::move(inner)), traffic_(std::move(traffic)) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }

  Pending AllReduceSum(const Tensor& t) override {
    Count(Operation::kAllReduceSum, 2 * (size() - 1) * Bytes(t) / size());
    return Timed(Operation::kAllReduceSum, t, [&] { return inner_->AllReduceSum(t); });
  }
  Pending AllGather(const Tensor& in, const Tensor& out) override {
    Count(Operation::kAllGather, (size() - 1) * Bytes(in));
    return Timed(Operation::kAllGather, in, [&] { return inner_->AllGather(in, out); });
  }
  Pending AllToAll(const Tensor& in, const Tensor& out) override {
    Count(Operation::kAllToAll, (size() - 1) * Bytes(in) / size());
    return Timed(Operation::kAllToAll, in, [&] { return inner_->AllToAll(in, out); });
  }
  Pending Send(const Tensor& t, int peer) override {
    Count(Operation::kSend, Bytes(t));
    return Timed(Operation::kSend, t, [&] { return inner_->Send(t, peer); });
  }
  Pending Recv(const Tensor& t, int peer) override {
    return Timed(Operation::kSend, t, [&] { return inner_->Recv(t, peer); });
  }
  Pending Grouped(const std::vector<Transfer>& transfers) override {
    for (const Transfer& transfer : transfers) {
      if (transfer.kind == Transfer::Kind::kSend) {
        Count(Operation::kSend, Bytes(transfer.tensor));
      }
    }
    if (transfers.empty()) return inner_->Grouped(transfers);
    return Timed(Operation::kSend, transfers.front().tensor,
                 [&] { return inner_->Grouped(transfers); });
  }
  void Abort(const std::string& reason) override { inner_->Abort(reason); }

 private:
  void Count(Operation operation, int64_t bytes) {
    WithEachRun([traffic = traffic_, operation, bytes] { traffic->Add(operation, bytes); });
  }

  template <typename Issue>
  Pending Timed(Operation operation, const Tensor& t, const Issue& issue) {
    const bool on_host = t.device().is_cpu();
    const Clock::time_point begin = Clock::now();
    Pending pending = issue();
    if (on_host) traffic_->AddTime(operation, Clock::now() - begin);
    return Pending(std::make_unique<TimedWork>(std::move(pending), traffic_, operation, on_host));
  }

  const std::unique_ptr<Communicator> inner_;
  const std::shared_ptr<Traffic> traffic_;
};

}  // namespace

void Traffic::Add(Operation operation, int64_t bytes) {
  Cell& cell = cells_[static_cast<size_t>(operation)];
  cell.calls.fetch_add(1, std::memory_order_relaxed);
  cell.bytes.fetch_add(bytes, std::memory_order_relaxed);
}

void Traffic::AddTime(Operation operation, std::chrono::nanoseconds time) {
  cells_[static_cast<size_t>(operation)].time_ns.fetch_add(time.count(), std::memory_order_relaxed);
}

Traffic::Count Traffic::Of(Operation operation) const {
  const Cell& cell = cells_[static_cast<size_t>(operation)];
  return {cell.calls.load(std::memory_order_relaxed), cell.bytes.load(std::memory_order_relaxed),
          std::chrono::nanoseconds(cell.time_ns.load(std::memory_order_relaxed))};
}

Traffic::Count Traffic::Total() const {
  Count total;
  for (size_t i = 0; i < cells_.size(); ++i) {
    AddTo(total, Of(static_cast<Operation>(i)));
  }
  return total;
}

std::unique_ptr<Communicator> CountingWorld::Split(int color, std::string_view name) {
  auto communicator = inner_.Split(color, name);
  if (communicator == nullptr) {
    return nullptr;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  traffic_.emplace_back(name, std::make_shared<Traffic>());
  return std::make_unique<CountingCommunicator>(std::move(communicator), traffic_.back().second);
}

Traffic::Count CountingWorld::Of(std::string_view name) const {
  std::lock_guard<std::mutex> lock(mutex_);
  Traffic::Count total;
  for (const auto& [of, traffic] : traffic_) {
    if (of == name) {
      AddTo(total, traffic->Total());
    }
  }
  return total;
}

Traffic::Count CountingWorld::Of(std::string_view name, Operation operation) const {
  std::lock_guard<std::mutex> lock(mutex_);
  Traffic::Count total;
  for (const auto& [of, traffic] : traffic_) {
    if (of == name) {
      AddTo(total, traffic->Of(operation));
    }
  }
  return total;
}

Traffic::Count CountingWorld::Total(Operation operation) const {
  std::lock_guard<std::mutex> lock(mutex_);
  Traffic::Count total;
  for (const auto& [of, traffic] : traffic_) {
    AddTo(total, traffic->Of(operation));
  }
  return total;
}

Traffic::Count CountingWorld::Total() const {
  std::lock_guard<std::mutex> lock(mutex_);
  Traffic::Count total;
  for (const auto& [of, traffic] : traffic_) {
    AddTo(total, traffic->Total());
  }
  return total;
}

}  // namespace patchflow
