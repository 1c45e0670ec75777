// A dispatcher over a scripted worker.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "server/dispatcher.h"
#include "tests/server/generations.h"
#include "tests/server/scripted_worker.h"

namespace patchflow {

inline absl::Status Lost() { return absl::UnavailableError("Socket closed"); }

class DispatcherTest : public ::testing::Test {
 protected:
  explicit DispatcherTest(int batch_size = 1)
      : group_({.name = "g",
                .model = "",
                .model_name = "shapes",
                .layout = "",
                .batch_size = batch_size,
                .workers = {}}) {}
  ~DispatcherTest() override {
    group_.Stop();
    queue_.Close();
    queue_.Interrupt();
    dispatcher_.reset();
  }

  void Serve(ScriptedWorker::Script script, const std::string& plan = "plan-1") {
    worker_ = std::make_shared<ScriptedWorker>(std::move(script));
    group_.SetServing(worker_, ScriptedWorker::Info(plan));
    if (dispatcher_ == nullptr) {
      dispatcher_ = std::make_unique<Dispatcher>(Dispatcher::Parts{
          group_, queue_, costs_, registry_, metrics_.model("shapes"), max_busy_});
    }
  }
  // What the supervisor does once it has a complaint: the same script goes on.
  void Restart() {
    group_.SetLost("lost");
    group_.SetServing(worker_, ScriptedWorker::Info());
  }
  std::shared_ptr<Generation> Submit(const std::string& id, int count = 1) {
    auto generation = MakeGeneration(TestSpec(id, count));
    EXPECT_TRUE(queue_.Push(generation).ok());
    return generation;
  }
  static bool Ends(const std::shared_ptr<Generation>& generation) {
    return Eventually([&] { return generation->ended(); });
  }
  bool Complains() {
    return Eventually([&] { return group_.complaint().has_value(); });
  }

  Group group_;
  RequestQueue queue_{QueueBounds{.requests = 10}};
  CostModel costs_;
  Registry registry_{1 << 20, absl::Seconds(300)};
  Metrics metrics_{{"shapes"}, {"g"}};
  std::shared_ptr<ScriptedWorker> worker_;
  absl::Duration max_busy_ = absl::Minutes(10);
  std::unique_ptr<Dispatcher> dispatcher_;
};

inline void MakeAll(int /*n*/, ScriptedJob& job) {
  job.Images();
  job.End(absl::OkStatus());
}

}  // namespace patchflow
