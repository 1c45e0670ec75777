#include "server/health_service.h"

#include <optional>
#include <utility>
#include <vector>

#include "server/caller.h"
#include "server/status.h"

namespace patchflow {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

constexpr char kOurService[] = "patchflow.v1.ImageGenerationService";

// Answers with an error at once; owned by gRPC.
class Refusal final : public grpc::ServerWriteReactor<HealthCheckResponse> {
 public:
  explicit Refusal(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

// One Watch: sends its service's status whenever it differs from the one sent last.
class HealthService::Watcher : public std::enable_shared_from_this<Watcher> {
 public:
  Watcher(HealthService& service, std::string name) : service_(service), name_(std::move(name)) {}

  class Reactor final : public grpc::ServerWriteReactor<HealthCheckResponse> {
   public:
    explicit Reactor(std::shared_ptr<Watcher> watcher) : watcher_(std::move(watcher)) {}
    void OnWriteDone(bool ok) override { watcher_->WriteDone(ok); }
    void OnCancel() override { watcher_->End(); }
    void OnDone() override {
      watcher_->Forget();
      delete this;
    }

   private:
    const std::shared_ptr<Watcher> watcher_;
  };

  Reactor* Open() { return reactor_ = new Reactor(shared_from_this()); }

  void Update() {
    const Status now = service_.StatusOf(name_);
    std::unique_lock<std::mutex> lock(mutex_);
    if (writing_ || finished_) {
      return;
    }
    if (ending_) {
      finished_ = true;
      lock.unlock();
      reactor_->Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the watch has ended"));
    } else if (sent_ != now) {
      sent_ = now;
      response_.set_status(now);
      writing_ = true;
      lock.unlock();
      reactor_->StartWrite(&response_);
    }
  }

  void End() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
    }
    Update();
  }

 private:
  void WriteDone(bool ok) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      writing_ = false;
      ending_ = ending_ || !ok;
    }
    Update();
  }

  void Forget() {
    std::lock_guard<std::mutex> lock(service_.mutex_);
    service_.watchers_.erase(shared_from_this());
  }

  HealthService& service_;
  const std::string name_;
  std::mutex mutex_;
  Reactor* reactor_ = nullptr;
  HealthCheckResponse response_;
  std::optional<Status> sent_;
  bool writing_ = false;
  bool ending_ = false;
  bool finished_ = false;
};

HealthService::HealthService(const Guard* guard) : guard_(guard) {
  Set({"", "readiness", kOurService}, false);
  Set({"liveness"}, true);
}

grpc::Status HealthService::CheckCaller(const grpc::CallbackServerContext& context) const {
  return guard_ == nullptr ? grpc::Status::OK
                           : ToGrpc(guard_->Check(ShownBy(context), "").status());
}

HealthService::Status HealthService::StatusOf(const std::string& service) const {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = statuses_.find(service);
  return found == statuses_.end() ? HealthCheckResponse::SERVICE_UNKNOWN : found->second;
}

void HealthService::Set(std::initializer_list<const char*> services, bool serving) {
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const char* service : services) {
      statuses_[service] =
          serving ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
    }
    watchers.assign(watchers_.begin(), watchers_.end());
  }
  for (const auto& watcher : watchers) {
    watcher->Update();
  }
}

void HealthService::SetReady(bool ready) { Set({"", "readiness", kOurService}, ready); }
void HealthService::SetLive(bool live) { Set({"liveness"}, live); }
bool HealthService::ready() const { return StatusOf("readiness") == HealthCheckResponse::SERVING; }
bool HealthService::live() const { return StatusOf("liveness") == HealthCheckResponse::SERVING; }

void HealthService::Shutdown() {
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    shut_down_ = true;
    watchers.assign(watchers_.begin(), watchers_.end());
  }
  for (const auto& watcher : watchers) {
    watcher->End();
  }
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context,
                                               const HealthCheckRequest* request,
                                               HealthCheckResponse* response) {
  auto* reactor = context->DefaultReactor();
  if (grpc::Status refused = CheckCaller(*context); !refused.ok()) {
    reactor->Finish(refused);
    return reactor;
  }
  const Status status = StatusOf(request->service());
  if (status == HealthCheckResponse::SERVICE_UNKNOWN) {
    reactor->Finish(grpc::Status(grpc::StatusCode::NOT_FOUND, "unknown service"));
    return reactor;
  }
  response->set_status(status);
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* HealthService::Watch(
    grpc::CallbackServerContext* context, const HealthCheckRequest* request) {
  if (const grpc::Status refused = CheckCaller(*context); !refused.ok()) {
    return new Refusal(refused);
  }
  auto watcher = std::make_shared<Watcher>(*this, request->service());
  auto* reactor = watcher->Open();
  bool shut_down = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    watchers_.insert(watcher);
    shut_down = shut_down_;
  }
  if (shut_down) {
    watcher->End();
  } else {
    watcher->Update();
  }
  return reactor;
}

}  // namespace patchflow
