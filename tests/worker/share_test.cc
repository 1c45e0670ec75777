// Workers with a share of their group's ranks, over gRPC.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <future>
#include <limits>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/worker/fake_group.h"
#include "tests/worker/scratch.h"
#include "worker/encoder.h"
#include "worker/worker_service.h"

namespace patchflow {
namespace {

using std::chrono::milliseconds;
using worker::v1::WorkerState;

constexpr int kShare = 2;  // Ranks of a worker.
constexpr int kRanks = 4;  // Of the group.
constexpr int kSteps = 200;

worker::v1::Ownership Owner(uint64_t epoch, const std::string& name = "front end") {
  worker::v1::Ownership owner;
  owner.set_owner(name);
  owner.set_epoch(epoch);
  return owner;
}

// Where the ranks of all workers meet before each step of each image, as in a collective. A rank
// that the others have left waits here in vain: it throws after 5 s.
class MeetingPlace {
 public:
  std::atomic<bool> may_encode = true;
  void Arrive(int64_t step) {
    std::unique_lock lock(mutex_);
    ++arrived_[step];
    changed_.notify_all();
    if (!changed_.wait_for(lock, std::chrono::seconds(5),
                           [&] { return arrived_[step] == kRanks; })) {
      throw std::runtime_error("left alone in a collective");
    }
  }
  int64_t steps() {
    const std::lock_guard lock(mutex_);
    return static_cast<int64_t>(arrived_.size());
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int64_t, int> arrived_;
};

// One process: a worker behind a socket.
class Share {
 public:
  Share(const std::string& socket, MeetingPlace& meeting) {
    WorkerOptions options;
    options.layout = "ulysses=4";
    options.ranks = kShare;
    options.process_start = absl::Now();
    options.on_failed = [this](const absl::Status& failure) {
      if (!failed_.exchange(true)) failure_.set_value(failure);
    };
    ShareOptions share;
    share.group_ranks = kRanks;
    share.check = [] { return absl::OkStatus(); };
    share.make_world = [](const std::string& host) -> absl::StatusOr<std::string> {
      return "world at " + host;
    };
    share.load = [this, &meeting](const Place& place) -> absl::StatusOr<LoadedGroup> {
      place_ = place;
      FakeEngineOptions engine;
      engine.step = milliseconds(1);
      engine.before_step = [&meeting](const ImageRequest& request, int step) {
        meeting.Arrive(static_cast<int64_t>(request.seed) * 1000 + step);
      };
      RankGroupOptions group;
      group.ranks = kShare;
      group.first_rank = place.first_rank;
      group.first_run_timeout = absl::Seconds(10);
      group.make_engine = [engine, place](int rank) -> absl::StatusOr<std::unique_ptr<Engine>> {
        FakeEngineOptions own = engine;
        own.rank = place.first_rank + rank;
        return std::make_unique<FakeEngine>(own);
      };
      auto started = RankGroup::Start(std::move(group));
      if (!started.ok()) return started.status();
      LoadedGroup loaded;
      loaded.offer.description = (*started)->description();
      loaded.offer.plan_digest = "plan";
      loaded.group = *std::move(started);
      loaded.encoder = std::make_shared<Encoder>(EncoderOptions{.before = [&meeting] {
        while (!meeting.may_encode) std::this_thread::sleep_for(milliseconds(1));
      }});
      return loaded;
    };
    options.share = share;
    worker_ = std::make_unique<Worker>(std::move(options));
    service_ = std::make_unique<WorkerService>(*worker_);
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    stub_ = worker::v1::WorkerService::NewStub(
        grpc::CreateChannel("unix:" + socket, grpc::InsecureChannelCredentials()));
  }
  ~Share() {
    worker_->Stop(absl::Seconds(10));
    server_->Shutdown(std::chrono::system_clock::now() + milliseconds(200));
  }

  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (worker::v1::WorkerService::Stub::*method)(grpc::ClientContext*,
                                                                            const Request&,
                                                                            Response*),
                    const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    return ((*stub_).*method)(&context, request, response);
  }
  worker::v1::DescribeResponse Describe() {
    worker::v1::DescribeResponse response;
    EXPECT_TRUE(
        Call(&worker::v1::WorkerService::Stub::Describe, worker::v1::DescribeRequest(), &response)
            .ok());
    return response;
  }
  void AwaitState(WorkerState state) {
    for (int i = 0; i < 5000 && Describe().state() != state; ++i) {
      std::this_thread::sleep_for(milliseconds(1));
    }
    ASSERT_EQ(Describe().state(), state);
  }
  grpc::Status Join(const worker::v1::Ownership& owner, int first_rank,
                    const std::string& id = "the id", uint64_t previous_epoch = 0) {
    worker::v1::JoinRequest request;
    *request.mutable_ownership() = owner;
    request.set_world_id(id);
    request.set_first_rank(first_rank);
    request.set_previous_epoch(previous_epoch);
    worker::v1::JoinResponse response;
    return Call(&worker::v1::WorkerService::Stub::Join, request, &response);
  }
  grpc::Status Leave(const worker::v1::Ownership& owner) {
    worker::v1::LeaveRequest request;
    *request.mutable_ownership() = owner;
    request.set_why("a test");
    worker::v1::LeaveResponse response;
    return Call(&worker::v1::WorkerService::Stub::Leave, request, &response);
  }
  int64_t Hold(const worker::v1::Ownership& owner, int64_t job) {
    worker::v1::HoldRequest request;
    *request.mutable_ownership() = owner;
    request.set_job(job);
    worker::v1::HoldResponse response;
    EXPECT_TRUE(Call(&worker::v1::WorkerService::Stub::Hold, request, &response).ok());
    return response.last_begun();
  }
  void StopAt(const worker::v1::Ownership& owner, int64_t job, int64_t step) {
    worker::v1::StopAtRequest request;
    *request.mutable_ownership() = owner;
    request.set_job(job);
    request.set_step(step);
    worker::v1::StopAtResponse response;
    EXPECT_TRUE(Call(&worker::v1::WorkerService::Stub::StopAt, request, &response).ok());
  }

  struct Outcome {
    int images = 0;
    grpc::Status status;
  };
  std::future<Outcome> Execute(const worker::v1::Ownership& owner, int64_t job, int images = 1,
                               std::shared_ptr<grpc::ClientContext> context = nullptr) {
    return std::async(std::launch::async, [=, this] {
      worker::v1::ExecuteRequest request;
      request.set_prompt("a red circle");
      v1::EffectiveParams& params = *request.mutable_params();
      params.set_width(64);
      params.set_height(64);
      params.set_steps(kSteps);
      params.set_guidance_scale(4.5F);
      params.set_seed(static_cast<uint64_t>(10 * job));
      params.set_scheduler("ddim");
      params.set_format(v1::IMAGE_FORMAT_RAW_RGB8);
      for (int i = 0; i < images; ++i) request.add_image_indices(i);
      *request.mutable_ownership() = owner;
      request.set_job(job);
      const auto own = context != nullptr ? context : std::make_shared<grpc::ClientContext>();
      own->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
      Outcome outcome;
      const auto reader = stub_->Execute(own.get(), request);
      for (worker::v1::ExecuteResponse message; reader->Read(&message);) {
        outcome.images += message.has_image_done() ? 1 : 0;
        if (message.has_ranks_free()) ++ranks_free_;
      }
      outcome.status = reader->Finish();
      return outcome;
    });
  }

  // How often it was told, by all jobs.
  int ranks_free() const { return ranks_free_; }
  const Place& place() const { return place_; }
  std::future<absl::Status> failure() { return failure_.get_future(); }

 private:
  std::atomic<int> ranks_free_ = 0;
  Place place_;
  std::atomic<bool> failed_ = false;
  std::promise<absl::Status> failure_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<WorkerService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<worker::v1::WorkerService::Stub> stub_;
};

class ShareTest : public ::testing::Test {
 protected:
  void JoinBoth() {
    first_.AwaitState(worker::v1::WORKER_STATE_WAITING);
    second_.AwaitState(worker::v1::WORKER_STATE_WAITING);
    ASSERT_TRUE(first_.Join(owner_, 0).ok());
    ASSERT_TRUE(second_.Join(owner_, kShare).ok());
    first_.AwaitState(worker::v1::WORKER_STATE_READY);
    second_.AwaitState(worker::v1::WORKER_STATE_READY);
  }
  void AwaitSteps(int64_t steps) {
    while (meeting_.steps() < steps) std::this_thread::yield();
  }

  Scratch scratch_;
  MeetingPlace meeting_;
  const worker::v1::Ownership owner_ = Owner(5);
  Share first_{(scratch_.path() / "first").string(), meeting_};
  Share second_{(scratch_.path() / "second").string(), meeting_};
};

TEST_F(ShareTest, WaitsForItsPlaceAndThenLoads) {
  first_.AwaitState(worker::v1::WORKER_STATE_WAITING);
  const worker::v1::DescribeResponse waiting = first_.Describe();
  EXPECT_EQ(waiting.ranks(), kShare);
  EXPECT_EQ(waiting.group_ranks(), kRanks);
  EXPECT_EQ(waiting.ownership().epoch(), 0);
  EXPECT_EQ(first_.Execute(owner_, 1).get().status.error_code(), grpc::StatusCode::UNAVAILABLE);

  worker::v1::MakeWorldRequest request;
  request.set_host("here");
  worker::v1::MakeWorldResponse made;
  ASSERT_TRUE(first_.Call(&worker::v1::WorkerService::Stub::MakeWorld, request, &made).ok());
  EXPECT_EQ(made.world_id(), "world at here");

  EXPECT_EQ(second_.Join(owner_, kShare + 1, made.world_id()).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  ASSERT_TRUE(second_.Join(owner_, kShare, made.world_id()).ok());
  second_.AwaitState(worker::v1::WORKER_STATE_READY);
  EXPECT_EQ(second_.place().world_id, made.world_id());
  EXPECT_EQ(second_.Describe().first_rank(), kShare);
  EXPECT_EQ(second_.Describe().ownership().epoch(), 5);
  EXPECT_EQ(second_.Join(Owner(6), kShare).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(second_.Call(&worker::v1::WorkerService::Stub::MakeWorld, request, &made).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(ShareTest, TheWorkerOfRankZeroSendsTheImages) {
  JoinBoth();
  auto first = first_.Execute(owner_, 1, 2);
  auto second = second_.Execute(owner_, 1, 2);
  const Share::Outcome led = first.get();
  const Share::Outcome followed = second.get();
  EXPECT_TRUE(led.status.ok()) << led.status.error_message();
  EXPECT_TRUE(followed.status.ok()) << followed.status.error_message();
  EXPECT_EQ(led.images, 2);
  EXPECT_EQ(followed.images, 0);
}

TEST_F(ShareTest, TheNextJobRunsOnAllWhileTheLastImageIsEncoded) {
  JoinBoth();
  meeting_.may_encode = false;
  auto first = first_.Execute(owner_, 1);
  EXPECT_TRUE(second_.Execute(owner_, 1).get().status.ok());
  while (first_.ranks_free() == 0) std::this_thread::yield();
  EXPECT_EQ(first_.Hold(owner_, 1), std::numeric_limits<int64_t>::max()) << "it can't be stopped";
  first_.StopAt(owner_, 1, std::numeric_limits<int64_t>::max());
  auto next = first_.Execute(owner_, 2);
  EXPECT_TRUE(second_.Execute(owner_, 2).get().status.ok());
  EXPECT_EQ(meeting_.steps(), 2 * kSteps);
  meeting_.may_encode = true;
  for (const Share::Outcome& outcome : {first.get(), next.get()}) {
    EXPECT_TRUE(outcome.status.ok()) << outcome.status.error_message();
    EXPECT_EQ(outcome.images, 1);
  }
  EXPECT_EQ(second_.ranks_free(), 0) << "its calls ended";
}

TEST_F(ShareTest, AStaleOwnerIsRefused) {
  JoinBoth();
  for (const auto& stranger : {Owner(4), Owner(5, "another"), Owner(6), Owner(0, "")}) {
    EXPECT_EQ(first_.Execute(stranger, 1).get().status.error_code(),
              grpc::StatusCode::FAILED_PRECONDITION);
  }
  EXPECT_EQ(first_.Leave(Owner(4)).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(first_.Describe().state(), worker::v1::WORKER_STATE_READY);
}

TEST_F(ShareTest, AHeldJobStopsOnAllAtTheSameStep) {
  JoinBoth();
  for (int job = 1; job <= 5; ++job) {
    const int64_t before = meeting_.steps();
    auto first = first_.Execute(owner_, job);
    auto second = second_.Execute(owner_, job);
    AwaitSteps(before + 3 * job);
    const int64_t last = std::max(first_.Hold(owner_, job), second_.Hold(owner_, job));
    first_.StopAt(owner_, job, last + 1);
    second_.StopAt(owner_, job, last + 1);
    EXPECT_EQ(first.get().status.error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_EQ(second.get().status.error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_LT(meeting_.steps() - before, kSteps);
  }
  EXPECT_EQ(first_.Describe().state(), worker::v1::WORKER_STATE_READY);
  EXPECT_EQ(second_.Describe().state(), worker::v1::WORKER_STATE_READY);
}

TEST_F(ShareTest, ACallThatIsCancelledAloneLeavesNobodyAlone) {
  JoinBoth();
  auto context = std::make_shared<grpc::ClientContext>();
  auto first = first_.Execute(owner_, 1, 1, context);
  auto second = second_.Execute(owner_, 1);
  AwaitSteps(3);
  context->TryCancel();
  first.get();
  EXPECT_TRUE(second.get().status.ok()) << "the ranks of the first went on";
  EXPECT_EQ(meeting_.steps(), kSteps);
}

TEST_F(ShareTest, LeavingEndsTheWorker) {
  JoinBoth();
  auto failure = first_.failure();
  ASSERT_TRUE(first_.Leave(Owner(6, "the next")).ok());
  EXPECT_THAT(std::string(failure.get().message()),
              ::testing::HasSubstr("leave its group: a test"));
  EXPECT_EQ(first_.Describe().state(), worker::v1::WORKER_STATE_FAILED);
}

TEST_F(ShareTest, ANewOwnerTakesOverWithoutLoadingAgain) {
  JoinBoth();
  ASSERT_TRUE(first_.Join(Owner(9, "the next"), 0, "", 5).ok());
  EXPECT_EQ(first_.Describe().state(), worker::v1::WORKER_STATE_READY);
  EXPECT_EQ(first_.Execute(owner_, 1).get().status.error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(first_.Join(Owner(8, "too late"), 0, "", 9).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
}

}  // namespace
}  // namespace patchflow
