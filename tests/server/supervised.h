// A supervisor whose worker is a shell script, and what its tests make of them.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/supervisor.h"
#include "tests/server/generations.h"
#include "tests/server/scratch_folder.h"
#include "tests/server/scripted_worker.h"

namespace patchflow {

// What the worker's heartbeats say, whatever its process does.
class Heart {
 public:
  worker::v1::WatchResponse Beat() const {
    worker::v1::WatchResponse beat;
    beat.set_state(failed    ? worker::v1::WORKER_STATE_FAILED
                   : loading ? worker::v1::WORKER_STATE_LOADING
                   : warming ? worker::v1::WORKER_STATE_WARMING
                   : busy    ? worker::v1::WORKER_STATE_BUSY
                             : worker::v1::WORKER_STATE_READY);
    if (failed) {
      beat.set_failure("rank 1 threw");
      std::lock_guard<std::mutex> lock(mutex_);
      beat.MergeFrom(detail_);
    }
    return beat;
  }
  // Says FAILED, with what `detail` says of it.
  void Fail(const worker::v1::WatchResponse& detail) {
    std::lock_guard<std::mutex> lock(mutex_);
    detail_ = detail;
    failed = true;
  }
  void FailWithDevice(worker::v1::DeviceFaultKind kind, int code) {
    worker::v1::WatchResponse detail;
    detail.mutable_device_fault()->set_kind(kind);
    detail.mutable_device_fault()->set_code(code);
    detail.mutable_device_fault()->set_text(absl::StrCat("0000:1B:00.0: code ", code));
    Fail(detail);
  }

  std::atomic<bool> beats = true;
  std::atomic<bool> failed = false;
  std::atomic<bool> loading = false;
  std::atomic<bool> warming = false;
  std::atomic<bool> busy = false;
  std::atomic<int> batch_size = 0;  // What it describes.

 private:
  mutable std::mutex mutex_;
  worker::v1::WatchResponse detail_;
};

class BeatingWorker final : public LoneWorker {
 public:
  explicit BeatingWorker(Heart& heart) : heart_(heart) {}
  absl::StatusOr<worker::v1::DescribeResponse> Describe(absl::Duration) override {
    auto info = ScriptedWorker::Info();
    info.set_batch_size(heart_.batch_size);
    return info;
  }
  std::unique_ptr<ExecuteCall> Execute(const worker::v1::ExecuteRequest&) override {
    return nullptr;
  }
  std::unique_ptr<WatchCall> Watch(absl::Duration interval,
                                   std::function<void(const worker::v1::WatchResponse&)> on_beat,
                                   std::function<void(absl::Status)>) override {
    return std::make_unique<Call>(heart_, interval, std::move(on_beat));
  }

 private:
  class Call final : public WatchCall {
   public:
    Call(Heart& heart, absl::Duration interval,
         std::function<void(const worker::v1::WatchResponse&)> on_beat)
        : thread_([this, &heart, interval, on_beat] {
            while (!stop_) {
              if (heart.beats) {
                on_beat(heart.Beat());
              }
              std::this_thread::sleep_for(ToClock(interval));
            }
          }) {}
    ~Call() override {
      stop_ = true;
      thread_.join();
    }

   private:
    std::atomic<bool> stop_ = false;
    std::thread thread_;
  };
  Heart& heart_;
};

class SupervisorTest : public ::testing::Test {
 protected:
  SupervisorTest() {
    rules_.heartbeat_interval = absl::Milliseconds(20);
    rules_.heartbeat_timeout = absl::Milliseconds(300);
    rules_.back_off = absl::Milliseconds(10);
    // The worker program: notes its pid and does what the test wants.
    Program("exec sleep 1000");
  }
  ~SupervisorTest() override {
    group_.Stop();
    supervisor_.reset();
  }

  void Program(const std::string& body) {
    const std::string temporary = folder_.path("worker.new");
    folder_.Write("worker.new",
                  absl::StrCat("#!/bin/sh\necho $$ >>", folder_.path("pids"), "\n", body, "\n"));
    std::filesystem::permissions(temporary, std::filesystem::perms::owner_all);
    std::filesystem::rename(temporary, folder_.path("worker"));
  }
  void Supervise() { Supervise(group_); }
  void Supervise(Group& group) {
    Supervisor::Options options;
    options.supervision = rules_;
    options.connect = [this](const std::string&) {
      return std::make_unique<BeatingWorker>(heart_);
    };
    options.binary = folder_.path("worker");
    options.socket = folder_.path("socket");
    options.black_boxes = &boxes_;
    options.on_given_up = [this](const std::string& why) {
      std::lock_guard<std::mutex> lock(mutex_);
      given_up_ = why;
    };
    supervisor_ = std::make_unique<Supervisor>(group, options);
  }
  std::vector<pid_t> Pids() const {
    std::ifstream file(folder_.path("pids"));
    std::vector<pid_t> pids;
    for (pid_t pid = 0; file >> pid;) {
      pids.push_back(pid);
    }
    return pids;
  }
  bool Serves() const {
    return Eventually([&] { return group_.state() == GroupState::kServing && !Pids().empty(); });
  }
  bool Starts(size_t times) const {
    return Eventually([&] { return Pids().size() >= times; });
  }
  std::string given_up() {
    std::lock_guard<std::mutex> lock(mutex_);
    return given_up_;
  }

  ScratchFolder folder_;
  BlackBoxes boxes_{{.directory = folder_.path("boxes")}};
  Heart heart_;
  Supervision rules_;
  Group group_{
      GroupConfig{.name = "g", .model = "", .model_name = "shapes", .layout = "", .workers = {}}};
  std::mutex mutex_;
  std::string given_up_;
  std::unique_ptr<Supervisor> supervisor_;
};

}  // namespace patchflow
