#include "parallel/nccl_watchdog.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "parallel/communicator.h"

namespace patchflow {
namespace {

constexpr std::chrono::milliseconds kPoll(50);
constexpr std::chrono::seconds kEndTimeout(5);

}  // namespace

NcclWatchdog::NcclWatchdog(absl::Duration timeout)
    : timeout_(timeout), thread_([this] { Watch(); }) {}

NcclWatchdog::~NcclWatchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  thread_.join();
  const auto until = NcclHandle::Clock::now() + kEndTimeout;
  for (const auto& handle : handles_) {
    if (!handle->WaitUntilEnded(until)) {
      TORCH_WARN("the ", handle->name(),
                 " communicator did not end: something still holds a graph or runs");
    }
  }
}

void NcclWatchdog::Watch() {
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kPoll, [this] { return stop_; })) {
    const std::vector<std::shared_ptr<NcclHandle>> handles = handles_;
    lock.unlock();
    std::string fault;
    for (const auto& handle : handles) {
      if (fault.empty()) {
        fault = handle->Fault(timeout_);
      }
    }
    lock.lock();
    if (!fault.empty()) {
      AbortLocked(fault);
    }
    std::erase_if(handles_, [](const auto& handle) {
      return handle->WaitUntilEnded(NcclHandle::Clock::now());
    });
  }
}

void NcclWatchdog::Add(std::shared_ptr<NcclHandle> handle) {
  ThrowIfAborted(handle->name());
  const std::lock_guard lock(mutex_);
  handles_.push_back(std::move(handle));
}

void NcclWatchdog::CheckSplit(size_t index, int rank, std::string_view name) {
  std::string other;
  {
    const std::lock_guard lock(mutex_);
    if (index == splits_.size()) {
      splits_.emplace_back(name);
    }
    other = splits_[index];
  }
  if (other != name) {
    Fail(other, absl::StrCat("rank ", rank, " splits off '", std::string(name),
                             "' where another splits '", other, "'"));
  }
}

void NcclWatchdog::Abort(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  AbortLocked(reason);
}

void NcclWatchdog::AbortLocked(const std::string& reason) {
  if (!reason_.empty()) {
    return;
  }
  reason_ = reason.empty() ? "no reason given" : reason;
  for (const auto& handle : handles_) {
    handle->Abort();
  }
}

std::string NcclWatchdog::reason() const {
  const std::lock_guard lock(mutex_);
  return reason_;
}

void NcclWatchdog::ThrowIfAborted(const std::string& name) const {
  if (const std::string reason = this->reason(); !reason.empty()) {
    throw CommunicatorError(absl::StrCat("the ", name, " communicator was aborted: ", reason));
  }
}

void NcclWatchdog::Fail(const std::string& name, const std::string& reason) {
  ThrowIfAborted(name);
  Abort(reason);
  throw CommunicatorError(reason);
}

void NcclWatchdog::ReportUnwaited(std::string what) {
  const std::lock_guard lock(mutex_);
  unwaited_.push_back(std::move(what));
}

std::vector<std::string> NcclWatchdog::Unwaited() const {
  const std::lock_guard lock(mutex_);
  return unwaited_;
}

}  // namespace patchflow
