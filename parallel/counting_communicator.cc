#include "parallel/counting_communicator.h"

#include <ATen/ATen.h>

namespace patchflow {
namespace {

void AddTo(Traffic::Count& sum, Traffic::Count part) {
  sum.calls += part.calls;
  sum.bytes += part.bytes;
}

int64_t Bytes(const Tensor& t) { return static_cast<int64_t>(t.nbytes()); }

class CountingCommunicator final : public Communicator {
 public:
  CountingCommunicator(std::unique_ptr<Communicator> inner, Traffic& traffic)
      : inner_(std::move(inner)), traffic_(traffic) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }

  Pending AllReduceSum(const Tensor& t) override {
    traffic_.Add(Operation::kAllReduceSum, 2 * (size() - 1) * Bytes(t) / size());
    return inner_->AllReduceSum(t);
  }
  Pending AllGather(const Tensor& in, const Tensor& out) override {
    traffic_.Add(Operation::kAllGather, (size() - 1) * Bytes(in));
    return inner_->AllGather(in, out);
  }
  Pending AllToAll(const Tensor& in, const Tensor& out) override {
    traffic_.Add(Operation::kAllToAll, (size() - 1) * Bytes(in) / size());
    return inner_->AllToAll(in, out);
  }
  Pending Send(const Tensor& t, int peer) override {
    traffic_.Add(Operation::kSend, Bytes(t));
    return inner_->Send(t, peer);
  }
  Pending Recv(const Tensor& t, int peer) override { return inner_->Recv(t, peer); }
  Pending Grouped(const std::vector<Transfer>& transfers) override {
    for (const Transfer& transfer : transfers) {
      if (transfer.kind == Transfer::Kind::kSend) {
        traffic_.Add(Operation::kSend, Bytes(transfer.tensor));
      }
    }
    return inner_->Grouped(transfers);
  }
  void Abort(const std::string& reason) override { inner_->Abort(reason); }

 private:
  const std::unique_ptr<Communicator> inner_;
  Traffic& traffic_;
};

}  // namespace

void Traffic::Add(Operation operation, int64_t bytes) {
  Cell& cell = cells_[static_cast<size_t>(operation)];
  cell.calls.fetch_add(1, std::memory_order_relaxed);
  cell.bytes.fetch_add(bytes, std::memory_order_relaxed);
}

Traffic::Count Traffic::Of(Operation operation) const {
  const Cell& cell = cells_[static_cast<size_t>(operation)];
  return {cell.calls.load(std::memory_order_relaxed), cell.bytes.load(std::memory_order_relaxed)};
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
  traffic_.emplace_back(name, std::make_unique<Traffic>());
  return std::make_unique<CountingCommunicator>(std::move(communicator), *traffic_.back().second);
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

Traffic::Count CountingWorld::Total() const {
  std::lock_guard<std::mutex> lock(mutex_);
  Traffic::Count total;
  for (const auto& [of, traffic] : traffic_) {
    AddTo(total, traffic->Total());
  }
  return total;
}

}  // namespace patchflow
