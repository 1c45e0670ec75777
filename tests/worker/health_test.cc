#include "worker/health.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <string>

#include "absl/time/clock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/worker/fake_group.h"
#include "tests/worker/scratch.h"
#include "worker/worker_service.h"

namespace patchflow {
namespace {

using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

constexpr auto kServing = HealthCheckResponse::SERVING;
constexpr auto kNotServing = HealthCheckResponse::NOT_SERVING;

// A worker that loads until `loaded_` is set, and its health behind a unix socket.
class WorkerHealthTest : public ::testing::Test {
 protected:
  WorkerHealthTest() {
    WorkerOptions options;
    options.ranks = 1;
    options.process_start = absl::Now();
    options.load = [future = loaded_.get_future().share()]() -> absl::StatusOr<LoadedGroup> {
      if (const absl::Status status = future.get(); !status.ok()) return status;
      return LoadFakeGroup(1, {});
    };
    options.on_failed = [](const absl::Status&) {};
    worker_ = std::make_unique<Worker>(std::move(options));
    service_ = std::make_unique<WorkerService>(*worker_);
    grpc::EnableDefaultHealthCheckService(true);
    const std::string address = "unix:" + (scratch_.path() / "socket").string();
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials());
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    health_ = std::make_unique<WorkerHealth>(*worker_, *server_->GetHealthCheckService());
    stub_ = Health::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  }

  ~WorkerHealthTest() override {
    health_.reset();
    worker_->Stop(absl::Seconds(5));
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  }

  void Load(const absl::Status& status) { loaded_.set_value(status); }

  HealthCheckResponse::ServingStatus Check(const std::string& service) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    HealthCheckRequest request;
    request.set_service(service);
    HealthCheckResponse response;
    const grpc::Status status = stub_->Check(&context, request, &response);
    return status.ok() ? response.status() : HealthCheckResponse::SERVICE_UNKNOWN;
  }
  bool Becomes(const std::string& service, HealthCheckResponse::ServingStatus expected) {
    for (int i = 0; i < 5000 && Check(service) != expected; ++i) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    return Check(service) == expected;
  }

  Scratch scratch_;
  std::promise<absl::Status> loaded_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<WorkerService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<WorkerHealth> health_;
  std::unique_ptr<Health::Stub> stub_;
};

TEST_F(WorkerHealthTest, IsAliveButNotReadyWhileItLoads) {
  EXPECT_EQ(Check("liveness"), kServing);
  for (const char* service : {"", "readiness", "patchflow.worker.v1.WorkerService"}) {
    EXPECT_EQ(Check(service), kNotServing) << service;
  }
  EXPECT_EQ(Check("something"), HealthCheckResponse::SERVICE_UNKNOWN);
  Load(absl::OkStatus());
  EXPECT_TRUE(Becomes("readiness", kServing));
  EXPECT_EQ(Check(""), kServing);
  EXPECT_EQ(Check("patchflow.worker.v1.WorkerService"), kServing);
}

TEST(WorkerHealthOfAShareTest, IsReadyWhileItWaitsForItsPlace) {
  WorkerOptions options;
  options.ranks = 1;
  options.process_start = absl::Now();
  options.share = ShareOptions{.group_ranks = 2,
                               .check = [] { return absl::OkStatus(); },
                               .make_world = nullptr,
                               .load = nullptr};
  options.on_failed = [](const absl::Status&) {};
  Worker worker(std::move(options));
  for (int i = 0; i < 5000 && worker.Describe().state != WorkerState::kWaiting; ++i) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  struct Noted final : grpc::HealthCheckServiceInterface {
    void SetServingStatus(const std::string& service, bool serving) override {
      if (service == "readiness") ready = serving;
    }
    void SetServingStatus(bool) override {}
    std::atomic<bool> ready = false;
  } noted;
  const WorkerHealth health(worker, noted);
  EXPECT_TRUE(noted.ready);
}

TEST_F(WorkerHealthTest, IsNotAliveOnceItHasFailed) {
  Load(absl::InternalError("no memory"));
  EXPECT_TRUE(Becomes("liveness", kNotServing));
  EXPECT_EQ(Check("readiness"), kNotServing);
}

TEST_F(WorkerHealthTest, AWatchHearsTheChange) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  HealthCheckRequest request;
  request.set_service("readiness");
  const auto reader = stub_->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), kNotServing);
  Load(absl::OkStatus());
  do {  // It may be told more than once that it is not.
    ASSERT_TRUE(reader->Read(&response));
  } while (response.status() == kNotServing);
  EXPECT_EQ(response.status(), kServing);
  context.TryCancel();
  reader->Finish();
}

}  // namespace
}  // namespace patchflow
