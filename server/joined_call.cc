#include "server/joined_call.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/clock.h"
#include "server/errors.h"

namespace patchflow {
namespace {

// For the others to come to the same end as one that failed.
constexpr absl::Duration kSameEnd = absl::Seconds(2);
// For the others to end when the first has sent everything.
constexpr absl::Duration kLag = absl::Seconds(10);
constexpr int64_t kOver = std::numeric_limits<int64_t>::max();

}  // namespace

JoinedCall::JoinedCall(Members members, worker::v1::ExecuteRequest request, absl::Duration timeout,
                       std::function<void(const std::string& why)> on_broken)
    : members_(std::move(members)),
      request_(std::move(request)),
      timeout_(timeout),
      on_broken_(std::move(on_broken)),
      ends_(members_.size()),
      free_(members_.size()) {
  for (const auto& member : members_) {
    calls_.push_back(member->Execute(request_));
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  for (size_t i = 1; i < members_.size(); ++i) {
    threads_.emplace_back([this, i] { Follow(i); });
  }
}

JoinedCall::~JoinedCall() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;  // No thread is begun any more.
  }
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

void JoinedCall::Follow(size_t member) {
  worker::v1::ExecuteResponse event;
  while (calls_[member]->Read(event)) {
    if (event.has_image_trace()) {
      const std::lock_guard<std::mutex> lock(mutex_);
      others_.push_back(event);
    } else if (event.has_ranks_free()) {
      Free(member);
    }
  }
  Ended(member, calls_[member]->Finish());
}

bool JoinedCall::Read(worker::v1::ExecuteResponse& event) {
  if (TakeOther(event)) {
    return true;
  }
  if (!first_ended_) {
    while (calls_[0]->Read(event)) {
      if (!event.has_ranks_free()) {
        return true;
      }
      Free(0);
      if (TakeOther(event)) {
        return true;
      }
    }
    first_ended_ = true;
    Ended(0, calls_[0]->Finish());
  }
  {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return AllEndedLocked(); });
  }
  return TakeOther(event);
}

bool JoinedCall::TakeOther(worker::v1::ExecuteResponse& event) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (others_.empty()) {
    return false;
  }
  event = std::move(others_.front());
  others_.pop_front();
  return true;
}

void JoinedCall::Free(size_t member) {
  std::unique_lock<std::mutex> lock(mutex_);
  free_[member] = true;
  changed_.notify_all();
  const auto all_free = [this] {
    for (size_t i = 0; i < free_.size(); ++i) {
      if (!free_[i] && !ends_[i].has_value()) {
        return false;
      }
    }
    return true;
  };
  if (member == 0 && changed_.wait_for(lock, ToClock(kLag), all_free) &&
      !first_to_fail_.has_value()) {
    others_.emplace_back().mutable_ranks_free();
  }
}

bool JoinedCall::AllEndedLocked() const {
  return std::all_of(ends_.begin(), ends_.end(), [](const auto& end) { return end.has_value(); });
}

void JoinedCall::Ended(size_t member, const absl::Status& status) {
  std::unique_lock<std::mutex> lock(mutex_);
  ends_[member] = status;
  changed_.notify_all();
  if (status.ok() ? member != 0 : absl::IsCancelled(status) && stopping_) {
    return;  // As all will, each when it is there.
  }
  if (!status.ok() && !first_to_fail_.has_value()) {
    first_to_fail_ = member;
  }
  const absl::Duration wait = status.ok() ? kLag : kSameEnd;
  if (!changed_.wait_for(lock, ToClock(wait), [this] { return AllEndedLocked(); })) {
    lock.unlock();
    Abandon();
  }
}

absl::Status JoinedCall::Finish() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return AllEndedLocked(); });
  return Combined();
}

absl::Status JoinedCall::Combined() const {
  const absl::Status& first = *ends_[first_to_fail_.value_or(0)];
  bool same = ReasonOf(first) != "STALE_EPOCH";
  for (const auto& end : ends_) {
    if (const std::string why = ReasonOf(*end);
        why == reason::kNonFiniteOutput || why == reason::kGpuOutOfMemory) {
      return *end;
    }
    same = same && end->code() == first.code();
  }
  if (same) {
    return first;
  }
  std::string text = "the workers of the group differ:";
  for (size_t i = 0; i < ends_.size(); ++i) {
    absl::StrAppend(&text, i == 0 ? " " : ", ", "worker ", i, " ",
                    absl::StatusCodeToString(ends_[i]->code()),
                    ends_[i]->ok() ? "" : absl::StrCat(" (", ends_[i]->message(), ")"));
  }
  return absl::UnavailableError(text);
}

void JoinedCall::Cancel() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stopping_ || AllEndedLocked()) {
    return;
  }
  stopping_ = true;
  threads_.emplace_back([this] {
    if (const absl::Status told = StopAll(); !told.ok()) {
      on_broken_(std::string(told.message()));
      Abandon();
    }
  });
}

void JoinedCall::Abandon() {
  for (const auto& call : calls_) {
    call->Cancel();
  }
}

absl::Status JoinedCall::StopAll() {
  worker::v1::HoldRequest hold;
  *hold.mutable_ownership() = request_.ownership();
  hold.set_job(request_.job());
  int64_t last = -1;
  const auto fault = [](size_t member, const char* what, const absl::Status& status) {
    return absl::UnavailableError(
        absl::StrCat("worker ", member, " can't be told to ", what, ": ", status.message()));
  };
  for (size_t i = 0; i < members_.size(); ++i) {
    const auto held = members_[i]->Hold(hold, timeout_);
    if (!held.ok()) {
      return fault(i, "hold its job", held.status());
    }
    last = std::max(last, held->last_begun());
  }
  worker::v1::StopAtRequest stop;
  *stop.mutable_ownership() = request_.ownership();
  stop.set_job(request_.job());
  stop.set_step(last == kOver ? kOver : last + 1);
  for (size_t i = 0; i < members_.size(); ++i) {
    if (const absl::Status told = members_[i]->StopAt(stop, timeout_); !told.ok()) {
      return fault(i, "stop its job", told);
    }
  }
  return absl::OkStatus();
}

}  // namespace patchflow
