#include "server/supervisor.h"

#include <gtest/gtest.h>

#include "tests/server/generations.h"
#include "tests/server/scripted_worker.h"
#include "tests/tsan/together.h"

namespace patchflow {
namespace {

// A worker elsewhere: beats fast from two threads of its transport, and fails when told.
class FastWorker final : public LoneWorker {
 public:
  explicit FastWorker(const std::atomic<bool>& fails) : fails_(fails) {}
  absl::StatusOr<worker::v1::DescribeResponse> Describe(absl::Duration) override {
    return ScriptedWorker::Info();
  }
  std::unique_ptr<ExecuteCall> Execute(const worker::v1::ExecuteRequest&) override {
    return nullptr;
  }
  std::unique_ptr<WatchCall> Watch(absl::Duration,
                                   std::function<void(const worker::v1::WatchResponse&)> on_beat,
                                   std::function<void(absl::Status)> on_end) override {
    return std::make_unique<Call>(fails_, std::move(on_beat), std::move(on_end));
  }

 private:
  class Call final : public WatchCall {
   public:
    Call(const std::atomic<bool>& fails,
         const std::function<void(const worker::v1::WatchResponse&)>& on_beat,
         std::function<void(absl::Status)> on_end)
        : on_end_(std::move(on_end)) {
      for (std::thread& thread : threads_) {
        thread = std::thread([this, &fails, on_beat] {
          while (!stop_.load(std::memory_order_relaxed)) {
            worker::v1::WatchResponse beat;
            beat.set_state(fails.load(std::memory_order_relaxed) ? worker::v1::WORKER_STATE_FAILED
                                                                 : worker::v1::WORKER_STATE_READY);
            on_beat(beat);
            std::this_thread::sleep_for(std::chrono::microseconds(500));
          }
        });
      }
    }
    ~Call() override {
      stop_ = true;
      for (std::thread& thread : threads_) {
        thread.join();
      }
      on_end_(absl::CancelledError("the watch is over"));
    }

   private:
    const std::function<void(absl::Status)> on_end_;
    std::atomic<bool> stop_ = false;
    std::thread threads_[2];
  };
  const std::atomic<bool>& fails_;
};

TEST(SupervisorStress, ReplacesALostWorkerWhileBeatsComeAndOthersAsk) {
  Group group(
      {.name = "g", .model = "", .model_name = "shapes", .layout = "", .workers = {"elsewhere:1"}});
  std::atomic<int> beats = 0;
  group.OnBeat([&](const auto&) { beats.fetch_add(1, std::memory_order_relaxed); });
  std::atomic<bool> fails = false;
  Supervisor::Options options;
  options.supervision.heartbeat_interval = absl::Milliseconds(1);
  options.supervision.heartbeat_timeout = absl::Seconds(20);
  options.supervision.back_off = absl::Milliseconds(1);
  options.supervision.max_failures = 1000;
  options.connect = [&](const std::string&) { return std::make_unique<FastWorker>(fails); };
  auto supervisor = std::make_unique<Supervisor>(group, options);
  std::atomic<bool> done = false;
  Together({[&] {
              for (int loss = 1; loss <= 5; ++loss) {
                EXPECT_TRUE(Eventually([&] { return group.state() == GroupState::kServing; }));
                fails = true;
                EXPECT_TRUE(Eventually([&] { return group.losses()[LossKind::kFailed] >= loss; }));
                fails = false;
                group.JobCompleted();
              }
              done = true;
            },
            [&] {
              while (!done.load(std::memory_order_relaxed)) {
                group.last_beat();
                group.info();
                group.OutOfServiceFor();
                std::this_thread::yield();
              }
            }});
  EXPECT_TRUE(Eventually([&] { return group.state() == GroupState::kServing; }));
  group.Stop();
  supervisor.reset();
  EXPECT_GT(beats, 5);
}

TEST(SupervisorStress, EndsAtAnyMoment) {
  const std::atomic<bool> fails = false;
  for (int round = 0; round < 20; ++round) {
    Group group({.name = "g",
                 .model = "",
                 .model_name = "shapes",
                 .layout = "",
                 .workers = {"elsewhere:1"}});
    Supervisor::Options options;
    options.supervision.heartbeat_timeout = absl::Seconds(20);
    options.connect = [&](const std::string&) { return std::make_unique<FastWorker>(fails); };
    auto supervisor = std::make_unique<Supervisor>(group, options);
    std::this_thread::sleep_for(std::chrono::milliseconds(round));
    group.Stop();
    supervisor.reset();
  }
}

}  // namespace
}  // namespace patchflow
