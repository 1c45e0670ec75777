// One job at all workers of a group.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "server/worker_client.h"

namespace patchflow {

// Events are those of the first worker, which hosts rank 0; of the others', what their ranks did
// when (ImageTrace) is handed on, and the rest dropped; RanksFree comes when every worker has said
// it, or has ended. A worker that fails takes the call with it:
// the others get a moment to say the same, and are abandoned then. So the status is one that all
// gave, or the fault of one that names the request (NON_FINITE_OUTPUT, GPU_OUT_OF_MEMORY), or
// UNAVAILABLE without an ErrorInfo, which is a lost group.
//
// Cancel() makes all stop before the same step: it holds every worker, and then tells all of them
// the step after the last that any has begun. If one doesn't answer within `timeout`, the call is
// abandoned and `on_broken` is told why: some may be left alone in what needs all.
class JoinedCall final : public ExecuteCall {
 public:
  using Members = std::vector<std::shared_ptr<WorkerClient>>;

  // `request` has its ownership and job.
  JoinedCall(Members members, worker::v1::ExecuteRequest request, absl::Duration timeout,
             std::function<void(const std::string& why)> on_broken);
  ~JoinedCall() override;

  bool Read(worker::v1::ExecuteResponse& event) override;
  absl::Status Finish() override;
  void Cancel() override;
  void Abandon() override;

 private:
  void Follow(size_t member);
  // Of one worker: its ranks are free. Hands it on once all are; on the reader's thread it waits
  // for that, since they come to their end together.
  void Free(size_t member);
  // What not only the first worker has told; false if nothing waits.
  bool TakeOther(worker::v1::ExecuteResponse& event);
  void Ended(size_t member, const absl::Status& status);
  bool AllEndedLocked() const;
  // Nothing if all workers have been told; else which of them did not answer.
  absl::Status StopAll();
  absl::Status Combined() const;

  const Members members_;
  const worker::v1::ExecuteRequest request_;
  const absl::Duration timeout_;
  const std::function<void(const std::string&)> on_broken_;
  std::vector<std::unique_ptr<ExecuteCall>> calls_;
  bool first_ended_ = false;  // Used by the reader.

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::optional<absl::Status>> ends_;  // By worker.
  std::optional<size_t> first_to_fail_;
  std::deque<worker::v1::ExecuteResponse> others_;  // Traces, and RanksFree. Not yet read.
  std::vector<bool> free_;                          // By worker.
  bool stopping_ = false;
  std::vector<std::thread> threads_;  // One for each worker but the first, and one that stops them.
};

}  // namespace patchflow
