#include "parallel/nccl_handle.h"

#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

// For a call that returns by itself, before what it uses is pulled away under it.
constexpr std::chrono::milliseconds kCallGrace(500);

constexpr std::chrono::milliseconds kEventPoll(2);

bool HaveHappened(const NcclHandle::Events& events) {
  try {
    return std::all_of(events.begin(), events.end(),
                       [](const auto& event) { return event->query(); });
  } catch (const std::exception&) {  // The device is lost: so is what runs on it.
    return false;
  }
}

absl::Duration Since(NcclHandle::Clock::time_point begin) {
  return absl::FromChrono(NcclHandle::Clock::now() - begin);
}

}  // namespace

ncclResult_t NcclHandle::Call(const char* what,
                              const std::function<ncclResult_t(ncclComm_t*)>& call) {
  const c10::cuda::CUDAGuard device(device_.index());
  const std::lock_guard lock(calling_);
  if (ending_) {
    return ncclInvalidUsage;
  }
  call_began_ = Clock::now();
  call_ = what;
  const ncclResult_t result = call(&comm_);
  call_ = nullptr;
  return result;
}

void NcclHandle::TakeFromSlot() {
  const std::lock_guard lock(calling_);
  comm_ = slot_;
}

std::string NcclHandle::ErrorText(ncclResult_t result) const {
  return absl::StrCat(ncclGetErrorString(result), " (", ncclGetLastError(nullptr), ")");
}

void NcclHandle::Expect(std::shared_ptr<at::cuda::CUDAEvent> done, const char* what) {
  const std::lock_guard lock(expected_mutex_);
  latest_ = {std::move(done), what};
}

std::string NcclHandle::Fault(absl::Duration timeout) {
  if (ending_) {
    return "";
  }
  std::string fault = CallFault(timeout);
  if (fault.empty()) {
    fault = OperationFault(timeout);
  }
  if (fault.empty()) {
    fault = AsyncFault();
  }
  return fault.empty() ? fault : absl::StrCat(name_, " communicator: ", fault);
}

std::string NcclHandle::CallFault(absl::Duration timeout) const {
  const char* const what = call_;
  if (what == nullptr || Since(call_began_) < timeout) {
    return "";
  }
  return absl::StrCat(what, " waited ", absl::FormatDuration(timeout), " for peers to connect");
}

// Operations run in order, so that one at a time stands for all.
std::string NcclHandle::OperationFault(absl::Duration timeout) {
  if (watched_.done == nullptr) {
    const std::lock_guard lock(expected_mutex_);
    watched_ = std::exchange(latest_, {});
    watched_since_ = Clock::now();
  }
  if (watched_.done == nullptr) {
    return "";
  }
  try {
    if (watched_.done->query()) {
      watched_ = {};
      return "";
    }
  } catch (const std::exception& error) {
    return error.what();
  }
  if (Since(watched_since_) < timeout) {
    return "";
  }
  return absl::StrCat(watched_.what, " waited ", absl::FormatDuration(timeout), " for its peers");
}

std::string NcclHandle::AsyncFault() {
  const std::unique_lock lock(calling_, std::try_to_lock);
  if (!lock.owns_lock() || comm_ == nullptr || ending_) {
    return "";
  }
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(comm_, &state);
  const ncclResult_t result = asked != ncclSuccess ? asked : state;
  return result == ncclSuccess || result == ncclInProgress ? "" : ErrorText(result);
}

void NcclHandle::Destroy(Events after, absl::Duration timeout) {
  StartEnd(std::move(after), timeout);
}

void NcclHandle::Abort() {
  abort_ = true;
  StartEnd({}, absl::ZeroDuration());
}

void NcclHandle::StartEnd(Events after, absl::Duration timeout) {
  if (ending_.exchange(true)) {
    return;
  }
  std::thread([self = shared_from_this(), after = std::move(after), timeout] {
    const Clock::time_point until = Clock::now() + absl::ToChronoNanoseconds(timeout);
    while (!self->abort_ && !HaveHappened(after) && Clock::now() < until) {
      std::this_thread::sleep_for(kEventPoll);
    }
    self->RunEnd(self->abort_ || !HaveHappened(after));
  }).detach();
}

void NcclHandle::RunEnd(bool abort) {
  const c10::cuda::CUDAGuard device(device_.index());
  {
    std::unique_lock lock(calling_, std::defer_lock);
    if (abort) {
      // A thread that is still inside a call is so because it waits for a peer: aborting is what
      // gets it out.
      (void)lock.try_lock_for(kCallGrace);
    } else {
      lock.lock();
    }
    if (ncclComm_t comm = std::exchange(comm_, nullptr); comm != nullptr) {
      (void)(abort ? ncclCommAbort(comm) : ncclCommDestroy(comm));
    }
  }
  const std::lock_guard lock(end_mutex_);
  ended_ = true;
  end_changed_.notify_all();
}

bool NcclHandle::WaitUntilEnded(Clock::time_point until) {
  std::unique_lock lock(end_mutex_);
  return end_changed_.wait_until(lock, until, [this] { return ended_; });
}

}  // namespace patchflow
