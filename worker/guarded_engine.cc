#include "worker/guarded_engine.h"

#include <utility>

#include "parallel/communicator.h"

namespace patchflow {
namespace {

class GuardedMonitor final : public RequestMonitor {
 public:
  GuardedMonitor(RequestMonitor& inner, const std::function<std::string()>& failure)
      : inner_(inner), failure_(failure) {}
  void Enter(Phase phase) override {
    Check();
    inner_.Enter(phase);
  }
  void StepsDone(int steps) override { inner_.StepsDone(steps); }
  bool Continue(int step) override {
    Check();
    return inner_.Continue(step);
  }

 private:
  void Check() const {
    if (std::string reason = failure_(); !reason.empty()) throw CommunicatorError(reason);
  }

  RequestMonitor& inner_;
  const std::function<std::string()>& failure_;
};

class GuardedEngine final : public Engine {
 public:
  GuardedEngine(std::unique_ptr<Engine> engine, std::function<std::string()> failure)
      : failure_(std::move(failure)), engine_(std::move(engine)) {}

  const ModelDescription& description() const override { return engine_->description(); }
  const std::vector<LoadedComponent>& components() const override { return engine_->components(); }

  absl::StatusOr<Generated> Generate(const ImageRequest& request,
                                     RequestMonitor& monitor) override {
    GuardedMonitor guarded(monitor, failure_);
    absl::StatusOr<Generated> made = engine_->Generate(request, guarded);
    if (!made.ok()) return made;
    if (const std::string reason = failure_(); !reason.empty()) {
      return WithEngineReason(absl::InternalError(reason), "INTERNAL");
    }
    return made;
  }

 private:
  const std::function<std::string()> failure_;
  const std::unique_ptr<Engine> engine_;
};

}  // namespace

std::unique_ptr<Engine> GuardEngine(std::unique_ptr<Engine> engine,
                                    std::function<std::string()> failure) {
  return std::make_unique<GuardedEngine>(std::move(engine), std::move(failure));
}

}  // namespace patchflow
