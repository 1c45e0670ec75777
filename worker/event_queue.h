// What a job has told and the front end has not yet read.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "patchflow/worker/v1/worker.pb.h"
#include "worker/job.h"

namespace patchflow {

// Phases and steps of an image are conflated, and so are its previews: the newest replaces one that
// waits behind the last image or trace. Image bytes are never
// dropped: an image waits until the one before it was taken, so that at most two are held for a
// reader that does not read. Thread-safe.
class EventQueue final : public JobEvents {
 public:
  // `wake` is called, without locks, whenever there may be something to take; `end` with the job's
  // status, after which this calls neither any more.
  EventQueue(std::function<void()> wake, std::function<void(const absl::Status&)> end)
      : wake_(std::move(wake)), end_(std::move(end)) {}

  void OnPhase(int image_index, JobPhase phase, int steps_done) override;
  void OnPreview(int image_index, int steps_done, std::string png) override;
  void OnTrace(int image_index, const std::vector<RankTrace>& ranks) override;
  void OnImage(FinishedImage image) override;
  void OnRanksFree() override;
  void AwaitTaken() override;
  void OnEnd(const absl::Status& status) override { end_(status); }

  // The next message, images in chunks of 256 KiB; nothing if none waits.
  std::optional<worker::v1::ExecuteResponse> Take();
  // Nobody reads any more: drops what waits and what comes, except for the end.
  void Close();

 private:
  struct Sending {
    FinishedImage image;
    bool header_taken = false;
    size_t taken_bytes = 0;
  };
  std::optional<worker::v1::ExecuteResponse> TakePart(Sending& sending);
  // Unless the queue is closed: appends it instead of an older T of the same image that nothing but
  // steps and previews follow.
  template <typename T>
  bool Conflate(T newest);

  const std::chrono::steady_clock::time_point received_ = std::chrono::steady_clock::now();
  const std::function<void()> wake_;
  const std::function<void(const absl::Status&)> end_;
  std::mutex mutex_;
  std::condition_variable room_;
  std::deque<std::variant<worker::v1::StepEvent, v1::Preview, worker::v1::ImageTrace,
                          worker::v1::RanksFree, Sending>>
      waiting_;
  bool image_waits_ = false;
  bool closed_ = false;
};

}  // namespace patchflow
