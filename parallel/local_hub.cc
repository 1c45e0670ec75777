#include "parallel/local_hub.h"

#include <chrono>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"

namespace patchflow {

LocalHub::Member LocalHub::Split(size_t index, int rank, int color, std::string_view name) {
  const auto deadline =
      std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(options_.timeout);
  std::unique_lock<std::mutex> lock(mutex_);
  SplitCall& call = ArriveLocked(index, rank, color, name, nullptr);
  while (call.members.empty()) {
    if (!aborted_.empty()) {
      throw CommunicatorError(absl::StrCat("the world was aborted: ", aborted_));
    }
    if (changed_.wait_until(lock, deadline) == std::cv_status::timeout && call.members.empty() &&
        aborted_.empty()) {
      Fail(absl::StrCat("rank ", rank, " waited ", absl::FormatDuration(options_.timeout), " for ",
                        size_ - call.arrived, " ranks to split off '", call.name, "'"));
    }
  }
  return call.members[rank];
}

void LocalHub::Arrive(size_t index, int rank, int color, std::string_view name,
                      std::function<void(const Member&)> on_split) {
  std::lock_guard<std::mutex> lock(mutex_);
  ArriveLocked(index, rank, color, name, std::move(on_split));
}

LocalHub::SplitCall& LocalHub::ArriveLocked(size_t index, int rank, int color,
                                            std::string_view name,
                                            std::function<void(const Member&)> on_split) {
  if (!aborted_.empty()) {
    throw CommunicatorError(absl::StrCat("the world was aborted: ", aborted_));
  }
  while (splits_.size() <= index) {
    splits_.push_back({std::string(name),
                       std::vector<int>(size_),
                       std::vector<std::function<void(const Member&)>>(size_),
                       {},
                       0});
  }
  SplitCall& call = splits_[index];
  if (call.name != name) {
    Fail(absl::StrCat("rank ", rank, " splits off '", std::string(name), "' where another splits '",
                      call.name, "'"));
  }
  call.colors[rank] = color;
  call.told[rank] = std::move(on_split);
  if (++call.arrived == size_) {
    Resolve(call);
    changed_.notify_all();
  }
  return call;
}

void LocalHub::Resolve(SplitCall& call) {
  std::map<int, int> sizes;
  for (const int color : call.colors) {
    ++sizes[color];
  }
  std::map<int, Member> next;
  for (const int color : call.colors) {
    Member& member = next[color];
    if (color >= 0 && member.channel == nullptr) {
      member.channel = std::make_shared<LocalChannel>(call.name, sizes[color], options_);
      channels_.push_back(member.channel);
    }
    call.members.push_back(member);
    ++member.rank;
  }
  for (int rank = 0; rank < size_; ++rank) {
    if (call.told[rank]) {
      call.told[rank](call.members[rank]);
    }
  }
}

void LocalHub::Fail(const std::string& reason) {
  AbortLocked(reason);
  throw CommunicatorError(reason);
}

void LocalHub::Abort(const std::string& reason) {
  std::lock_guard<std::mutex> lock(mutex_);
  AbortLocked(reason);
}

void LocalHub::AbortLocked(const std::string& reason) {
  if (aborted_.empty()) {
    aborted_ = reason.empty() ? "no reason given" : reason;
    for (const auto& hook : std::exchange(abort_hooks_, {})) {
      hook(aborted_);
    }
  }
  for (const auto& weak : channels_) {
    if (const auto channel = weak.lock()) {
      channel->Abort(reason);
    }
  }
  changed_.notify_all();
}

void LocalHub::OnAbort(std::function<void(const std::string& reason)> hook) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (aborted_.empty()) {
    abort_hooks_.push_back(std::move(hook));
  } else {
    hook(aborted_);
  }
}

void LocalHub::ReportUnwaited(std::string what) {
  std::lock_guard<std::mutex> lock(mutex_);
  unwaited_.push_back(std::move(what));
}

std::vector<std::string> LocalHub::Unwaited() {
  std::lock_guard<std::mutex> lock(mutex_);
  return unwaited_;
}

}  // namespace patchflow
