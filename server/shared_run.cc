#include "server/shared_run.h"

#include <algorithm>
#include <utility>

#include "server/errors.h"

namespace patchflow {

std::shared_ptr<SharedRun> SharedRun::Begin(std::vector<std::unique_ptr<JobRun>> jobs,
                                            bool may_leave_tails, Hooks hooks,
                                            ThreadPool& threads) {
  std::shared_ptr<SharedRun> run(new SharedRun(std::move(jobs), may_leave_tails, std::move(hooks)));
  for (Member& member : run->members_) {
    threads.Run([run, &member] { run->Read(member); });
  }
  return run;
}

SharedRun::SharedRun(std::vector<std::unique_ptr<JobRun>> jobs, bool may_leave_tails, Hooks hooks)
    : may_leave_tails_(may_leave_tails), hooks_(std::move(hooks)) {
  members_.reserve(jobs.size());
  for (auto& job : jobs) {
    const int images = job->images();
    auto generation = job->generation();
    members_.push_back({std::move(job), std::move(generation), images});
  }
}

void SharedRun::Become(Member& member, State state) {
  std::shared_ptr<Generation> ended;  // Let go without the lock.
  {
    std::lock_guard<std::mutex> lock(mutex_);
    member.state = state;
    member.taken = state != State::kBusy;
    if (state == State::kEnded) {
      ended = std::move(member.generation);
    }
  }
  changed_.notify_all();
}

void SharedRun::Read(Member& member) {
  bool heard = false;
  const auto note = [&](const worker::v1::ExecuteResponse& event) {
    if (!std::exchange(heard, true)) {
      Become(member, State::kRuns);
    }
    hooks_.on_event(event, is_tail_);
  };
  bool is_tail = false;
  while (member.job->Read(note)) {
    if (may_leave_tails_ && !std::exchange(is_tail, true)) {
      Become(member, State::kTail);
    }
  }
  absl::Status status = member.job->Finish();
  if (is_tail && status.ok()) {
    status = absl::InternalError("the call ended without all images that were asked for");
  }
  member.job = nullptr;
  Become(member, Conclude(member, std::move(status)));
}

SharedRun::State SharedRun::Conclude(const Member& member, absl::Status status) {
  const std::shared_ptr<Generation> generation = member.generation;
  if (!generation->ended() && ReasonOf(status) == reason::kWorkerBusy) {
    return State::kBusy;
  }
  if (!generation->ended() && status.ok()) {
    return State::kUnfinished;
  }
  hooks_.on_end(generation, status);
  return State::kEnded;
}

bool SharedRun::AnyLocked(std::initializer_list<State> states) const {
  return std::any_of(members_.begin(), members_.end(), [&](const Member& member) {
    return std::find(states.begin(), states.end(), member.state) != states.end();
  });
}

std::vector<std::shared_ptr<Generation>> SharedRun::TakeBusyLocked() {
  std::vector<std::shared_ptr<Generation>> busy;
  for (Member& member : members_) {
    if (member.state == State::kBusy) {
      member.state = State::kEnded;
      busy.push_back(std::move(member.generation));
    }
  }
  return busy;
}

SharedRun::Rest SharedRun::AwaitRanks(
    const std::function<void(const std::shared_ptr<Generation>&)>& give_back) {
  Rest rest;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    if (AnyLocked({State::kBusy}) &&
        AnyLocked({State::kRuns, State::kTail, State::kUnfinished, State::kEnded})) {
      const auto busy = TakeBusyLocked();
      lock.unlock();
      std::for_each(busy.begin(), busy.end(), give_back);
      lock.lock();
      continue;
    }
    if (!AnyLocked({State::kAsked, State::kRuns})) {
      break;
    }
    changed_.wait(lock);
  }
  rest.all_busy = AnyLocked({State::kBusy});
  for (const Member& member : members_) {
    rest.images_taken += member.taken ? member.images : 0;
    if (member.state == State::kBusy || member.state == State::kUnfinished) {
      rest.generations.push_back(member.generation);
    }
  }
  return rest;
}

bool SharedRun::HasTails() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return AnyLocked({State::kTail});
}

void SharedRun::AwaitEnd() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return !AnyLocked({State::kAsked, State::kRuns, State::kTail}); });
}

}  // namespace patchflow
