#include "worker/fault_injection.h"

#include <ATen/ATen.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "worker/log.h"

namespace patchflow {
namespace {

constexpr int64_t kTooManyBytes = int64_t{1} << 50;
constexpr int kFaultyStep = 1;

constexpr std::array kKinds = {
    std::pair{FaultKind::kKill, "kill"}, std::pair{FaultKind::kStop, "stop"},
    std::pair{FaultKind::kHang, "hang"}, std::pair{FaultKind::kThrow, "throw"},
    std::pair{FaultKind::kSkip, "skip"}, std::pair{FaultKind::kOutOfMemory, "oom"},
    std::pair{FaultKind::kNan, "nan"},
};
constexpr std::array kPlaces = {
    std::pair{FaultPlace::kLoad, "load"},     std::pair{FaultPlace::kWarmUp, "warm-up"},
    std::pair{FaultPlace::kText, "text"},     std::pair{FaultPlace::kStep, "step"},
    std::pair{FaultPlace::kDecode, "decode"}, std::pair{FaultPlace::kEncode, "encode"},
};

template <typename Names>
auto Find(const Names& names, const std::string& name) {
  std::optional<std::decay_t<decltype(names[0].first)>> found;
  for (const auto& [value, known] : names) {
    if (known == name) found = value;
  }
  return found;
}

bool WaitsForOperation(FaultKind kind) {
  return kind == FaultKind::kSkip || kind == FaultKind::kNan;
}

void Suffer(FaultKind kind, at::Device device) {
  switch (kind) {
    case FaultKind::kKill:
      kill(getpid(), SIGKILL);
      break;
    case FaultKind::kStop:
      kill(getpid(), SIGSTOP);
      return;
    case FaultKind::kHang:
      break;
    case FaultKind::kThrow:
      throw std::runtime_error("an exception to order");
    case FaultKind::kOutOfMemory:
      at::empty({kTooManyBytes}, at::TensorOptions(at::kByte).device(device));
      return;
    case FaultKind::kSkip:
    case FaultKind::kNan:
      return;
  }
  while (true) absl::SleepFor(absl::Hours(1));
}

void Poison(const Tensor& t) {
  if (t.is_floating_point()) t.fill_(std::numeric_limits<double>::quiet_NaN());
}

class FaultyCommunicator final : public Communicator {
 public:
  FaultyCommunicator(std::unique_ptr<Communicator> inner, std::shared_ptr<RankFaults> faults)
      : inner_(std::move(inner)), faults_(std::move(faults)) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }

  Pending AllReduceSum(const Tensor& t) override {
    return Call({t}, [&] { return inner_->AllReduceSum(t); });
  }
  Pending AllGather(const Tensor& in, const Tensor& out) override {
    return Call({out}, [&] { return inner_->AllGather(in, out); });
  }
  Pending AllToAll(const Tensor& in, const Tensor& out) override {
    return Call({out}, [&] { return inner_->AllToAll(in, out); });
  }
  Pending Send(const Tensor& t, int peer) override {
    return Call({}, [&] { return inner_->Send(t, peer); });
  }
  Pending Recv(const Tensor& t, int peer) override {
    return Call({t}, [&] { return inner_->Recv(t, peer); });
  }
  Pending Grouped(const std::vector<Transfer>& transfers) override {
    std::vector<Tensor> brought;
    for (const Transfer& transfer : transfers) {
      if (transfer.kind == Transfer::Kind::kRecv) brought.push_back(transfer.tensor);
    }
    return Call(brought, [&] { return inner_->Grouped(transfers); });
  }
  void Abort(const std::string& reason) override { inner_->Abort(reason); }

 private:
  template <typename Operation>
  Pending Call(const std::vector<Tensor>& brought, const Operation& operation) {
    const std::optional<FaultKind> fault = faults_->TakePending();
    if (fault == FaultKind::kSkip) return {};
    Pending pending = operation();
    if (fault == FaultKind::kNan) {
      pending.Wait();
      for (const Tensor& t : brought) Poison(t);
    }
    return pending;
  }

  const std::unique_ptr<Communicator> inner_;
  const std::shared_ptr<RankFaults> faults_;
};

class FaultyMonitor final : public RequestMonitor {
 public:
  FaultyMonitor(RequestMonitor& inner, RankFaults& faults) : inner_(inner), faults_(faults) {}
  void Enter(Phase phase) override {
    phase_ = phase;
    inner_.Enter(phase);  // Whoever watches knows the phase in which it fails.
    if (!faults_.warms_up() && phase == Phase::kText) faults_.At(FaultPlace::kText);
    if (!faults_.warms_up() && phase == Phase::kDecode) faults_.At(FaultPlace::kDecode);
  }
  void StepsDone(int steps) override { inner_.StepsDone(steps); }
  bool Continue(int step) override {
    if (phase_ == Phase::kDenoise && step == kFaultyStep) {
      faults_.At(faults_.warms_up() ? FaultPlace::kWarmUp : FaultPlace::kStep);
    }
    return inner_.Continue(step);
  }

 private:
  RequestMonitor& inner_;
  RankFaults& faults_;
  Phase phase_ = Phase::kText;
};

class FaultyEngine final : public Engine {
 public:
  FaultyEngine(std::unique_ptr<Engine> engine, std::shared_ptr<RankFaults> faults)
      : faults_(std::move(faults)), engine_(std::move(engine)) {}

  const ModelDescription& description() const override { return engine_->description(); }
  const std::vector<LoadedComponent>& components() const override { return engine_->components(); }

  absl::StatusOr<Generated> Generate(const ImageRequest& request,
                                     RequestMonitor& monitor) override {
    faults_->BeginImage();
    FaultyMonitor faulty(monitor, *faults_);
    return engine_->Generate(request, faulty);
  }

 private:
  const std::shared_ptr<RankFaults> faults_;
  const std::unique_ptr<Engine> engine_;
};

}  // namespace

std::optional<FaultOrder> ParseFaultOrder(const std::string& text) {
  std::istringstream words(text);
  std::string kind_name;
  std::string place_name;
  FaultOrder order{};
  if (!(words >> kind_name >> place_name >> order.rank)) return std::nullopt;
  const auto kind = Find(kKinds, kind_name);
  const auto place = Find(kPlaces, place_name);
  if (!kind.has_value() || !place.has_value()) return std::nullopt;
  order.kind = *kind;
  order.place = *place;
  return order;
}

std::optional<FaultKind> FaultInjector::Take(FaultPlace place, int rank) {
  if (access(orders_.c_str(), R_OK) != 0) return std::nullopt;
  std::ifstream file(orders_);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::optional<FaultOrder> order = ParseFaultOrder(text);
  if (!order.has_value() || order->place != place || order->rank != rank ||
      unlink(orders_.c_str()) != 0) {
    return std::nullopt;
  }
  Log(LogLevel::kWarning, "fault injected", {{"order", text}});
  FlushLog();
  return order->kind;
}

void FaultInjector::At(FaultPlace place, int rank, at::Device device) {
  if (const std::optional<FaultKind> kind = Take(place, rank)) Suffer(*kind, device);
}

void RankFaults::At(FaultPlace place) {
  const std::optional<FaultKind> kind = injector_.Take(place, rank_);
  if (!kind.has_value()) return;
  if (WaitsForOperation(*kind)) {
    pending_ = kind;
  } else {
    Suffer(*kind, device_);
  }
}

std::optional<FaultKind> RankFaults::TakePending() { return std::exchange(pending_, std::nullopt); }

std::unique_ptr<Communicator> FaultyWorld::Split(int color, std::string_view name) {
  auto communicator = inner_.Split(color, name);
  if (communicator == nullptr) return nullptr;
  return std::make_unique<FaultyCommunicator>(std::move(communicator), faults_);
}

std::unique_ptr<Engine> MakeFaulty(std::unique_ptr<Engine> engine,
                                   std::shared_ptr<RankFaults> faults) {
  return std::make_unique<FaultyEngine>(std::move(engine), std::move(faults));
}

}  // namespace patchflow
