#include "bench/studied_world.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "engine/step_graph.h"

namespace patchflow {
namespace {

using Transfer = Communicator::Transfer;

constexpr int64_t kAlignment = 256;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

int64_t InputBytes(const Exchange& exchange) {
  int64_t bytes = static_cast<int64_t>(c10::elementSize(exchange.type));
  for (const int64_t size : exchange.sizes) bytes *= size;
  return bytes;
}

// Of input and output, or of all parts, one after the other.
int64_t MemoryBytes(const Exchange& exchange, int ranks) {
  if (exchange.kind != Exchange::Kind::kTransfers) {
    return Aligned(InputBytes(exchange)) * (1 + ranks);
  }
  int64_t bytes = 0;
  for (const Exchange::Part& part : exchange.parts) bytes += Aligned(part.bytes);
  return bytes;
}

}  // namespace

std::vector<Exchange> Beyond(const std::vector<Exchange>& longer,
                             const std::vector<Exchange>& shorter) {
  std::map<size_t, int64_t> left_out;
  for (const Exchange& exchange : shorter) ++left_out[exchange.communicator];
  std::vector<Exchange> beyond;
  for (const Exchange& exchange : longer) {
    if (--left_out[exchange.communicator] < 0) beyond.push_back(exchange);
  }
  return beyond;
}

class StudiedCommunicator final : public Communicator {
 public:
  StudiedCommunicator(std::unique_ptr<Communicator> inner, StudiedWorld& world)
      : inner_(std::move(inner)), world_(world), index_(world.communicators_.size()) {
    world_.communicators_.push_back(inner_.get());
  }
  ~StudiedCommunicator() override { world_.communicators_[index_] = nullptr; }
  StudiedCommunicator(const StudiedCommunicator&) = delete;
  StudiedCommunicator& operator=(const StudiedCommunicator&) = delete;
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }

  Pending AllReduceSum(const Tensor& t) override {
    if (IsSilent()) return {};
    Record(Exchange::Kind::kAllReduceSum, t);
    return inner_->AllReduceSum(t);
  }
  Pending AllGather(const Tensor& in, const Tensor& out) override {
    if (IsSilent()) return Receive(out);
    Record(Exchange::Kind::kAllGather, in);
    return inner_->AllGather(in, out);
  }
  Pending AllToAll(const Tensor& in, const Tensor& out) override {
    if (IsSilent()) return Receive(out);
    Record(Exchange::Kind::kAllToAll, in);
    return inner_->AllToAll(in, out);
  }
  Pending Send(const Tensor& t, int peer) override {
    if (IsSilent()) return {};
    Record({{Transfer::Kind::kSend, t, peer}});
    return inner_->Send(t, peer);
  }
  Pending Recv(const Tensor& t, int peer) override {
    if (IsSilent()) return Receive(t);
    Record({{Transfer::Kind::kRecv, t, peer}});
    return inner_->Recv(t, peer);
  }
  Pending Grouped(const std::vector<Transfer>& transfers) override {
    if (IsSilent()) {
      for (const Transfer& transfer : transfers) {
        if (transfer.kind == Transfer::Kind::kRecv) world_.Receive(transfer.tensor);
      }
      return {};
    }
    Record(transfers);
    return inner_->Grouped(transfers);
  }
  void Abort(const std::string& reason) override { inner_->Abort(reason); }

 private:
  bool IsSilent() const { return world_.mode_ == StudiedWorld::Mode::kSilent; }

  Pending Receive(const Tensor& t) {
    world_.Receive(t);
    return {};
  }

  void Record(Exchange::Kind kind, const Tensor& in) {
    Record({.communicator = index_,
            .kind = kind,
            .sizes = in.sizes().vec(),
            .type = in.scalar_type()});
  }
  void Record(const std::vector<Transfer>& transfers) {
    Exchange exchange{.communicator = index_};
    for (const Transfer& transfer : transfers) {
      exchange.parts.push_back(
          {transfer.kind, static_cast<int64_t>(transfer.tensor.nbytes()), transfer.peer});
    }
    Record(std::move(exchange));
  }
  void Record(Exchange exchange) {
    if (world_.mode_ == StudiedWorld::Mode::kRecord) {
      world_.record_.push_back(std::move(exchange));
    }
  }

  const std::unique_ptr<Communicator> inner_;
  StudiedWorld& world_;
  const size_t index_;
};

StudiedWorld::StudiedWorld(World& inner, at::Device device) : inner_(inner), device_(device) {}
StudiedWorld::~StudiedWorld() = default;

std::unique_ptr<Communicator> StudiedWorld::Split(int color, std::string_view name) {
  auto communicator = inner_.Split(color, name);
  if (communicator == nullptr) {
    communicators_.push_back(nullptr);
    return nullptr;
  }
  return std::make_unique<StudiedCommunicator>(std::move(communicator), *this);
}

void StudiedWorld::Set(Mode mode) {
  mode_ = mode;
  received_.clear();
  if (mode == Mode::kRecord) record_.clear();
}

// The numbers of a captured step are drawn before its first replay, outside of it.
void StudiedWorld::Receive(const Tensor& t) {
  if (t.numel() == 0 || !t.is_floating_point()) return;
  WithEachRun([this, data = t.data_ptr(), sizes = t.sizes().vec(), options = t.options()] {
    const Tensor into = at::from_blob(data, sizes, options);
    if (received_.emplace(data, into.nbytes()).second) into.normal_();
  });
}

void StudiedWorld::Reserve(const std::vector<Exchange>& exchanges) {
  std::map<size_t, int64_t> most;
  for (const Exchange& exchange : exchanges) {
    const int ranks = communicators_.at(exchange.communicator)->size();
    int64_t& bytes = most[exchange.communicator];
    bytes = std::max(bytes, MemoryBytes(exchange, ranks));
  }
  for (const auto& [communicator, bytes] : most) {
    Tensor& memory = memory_[communicator];
    if (!memory.defined() || memory.numel() < bytes) {
      memory = at::zeros({bytes}, at::TensorOptions(device_).dtype(at::kByte));
    }
  }
}

Pending StudiedWorld::Issue(const Exchange& exchange) {
  Communicator& communicator = *communicators_[exchange.communicator];
  const Tensor& memory = memory_[exchange.communicator];
  if (exchange.kind == Exchange::Kind::kTransfers) {
    std::vector<Transfer> transfers;
    int64_t begin = 0;
    for (const Exchange::Part& part : exchange.parts) {
      transfers.push_back({part.kind, memory.narrow(0, begin, part.bytes), part.peer});
      begin += Aligned(part.bytes);
    }
    return communicator.Grouped(transfers);
  }
  const int64_t bytes = InputBytes(exchange);
  const auto as_input = [&](int64_t begin, int64_t times) {
    return memory.narrow(0, begin, times * bytes).view(exchange.type);
  };
  const Tensor in = as_input(0, 1).view(exchange.sizes);
  switch (exchange.kind) {
    case Exchange::Kind::kAllReduceSum:
      return communicator.AllReduceSum(in);
    case Exchange::Kind::kAllToAll:
      return communicator.AllToAll(in, as_input(Aligned(bytes), 1).view(exchange.sizes));
    default: {
      std::vector<int64_t> gathered = exchange.sizes;
      gathered.insert(gathered.begin(), communicator.size());
      return communicator.AllGather(in,
                                    as_input(Aligned(bytes), communicator.size()).view(gathered));
    }
  }
}

void StudiedWorld::Make(const std::vector<Exchange>& exchanges) {
  Reserve(exchanges);
  std::vector<Pending> pending;
  pending.reserve(exchanges.size());
  for (const Exchange& exchange : exchanges) pending.push_back(Issue(exchange));
  for (Pending& one : pending) one.Wait();
}

}  // namespace patchflow
