#include "server/line_writer.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <iterator>
#include <mutex>
#include <thread>
#include <utility>

#include "server/clock.h"

namespace patchflow {
namespace {

constexpr std::chrono::milliseconds kPause{2};
constexpr std::chrono::milliseconds kPauseAfterFailure{50};

}  // namespace

struct LineWriter::State {
  State(size_t lines, Full when_full, Write write_lines)
      : capacity(lines), full(when_full), write(std::move(write_lines)) {}

  const size_t capacity;
  const Full full;
  const Write write;

  std::mutex mutex;
  std::condition_variable added;  // Or the end is asked for.
  std::condition_variable taken;  // Or the thread is at its end.
  std::deque<std::string> waiting;
  Clock::time_point waits_since;  // The first of those that wait.
  size_t in_hand = 0;             // Taken and not yet written.
  Clock::time_point in_hand_since;
  bool asleep = false;  // Until a line comes.
  bool stopping = false;
  bool ended = false;
};

LineWriter::LineWriter(size_t capacity, Full full, Write write)
    : state_(std::make_shared<State>(capacity, full, std::move(write))) {
  std::thread([state = state_] { Run(*state); }).detach();
}

size_t LineWriter::Stop() {
  std::unique_lock<std::mutex> lock(state_->mutex);
  if (std::exchange(state_->stopping, true)) {
    return state_->waiting.size() + state_->in_hand;
  }
  state_->added.notify_all();
  state_->taken.wait_for(lock, kLastWrites, [this] { return state_->ended; });
  return state_->waiting.size() + state_->in_hand;
}

bool LineWriter::Add(std::string line, size_t reserve) {
  State& state = *state_;
  std::unique_lock<std::mutex> lock(state.mutex);
  if (state.full == Full::kRefuse && state.waiting.size() + reserve >= state.capacity) {
    return false;
  }
  if (state.full == Full::kDropOldest && state.waiting.size() >= state.capacity) {
    state.waiting.pop_front();
  }
  if (state.waiting.empty()) {
    state.waits_since = Clock::now();
  }
  state.waiting.push_back(std::move(line));
  if (!std::exchange(state.asleep, false)) {
    return true;
  }
  lock.unlock();
  state.added.notify_all();
  return true;
}

void LineWriter::Flush(std::chrono::milliseconds limit) {
  std::unique_lock<std::mutex> lock(state_->mutex);
  state_->taken.wait_for(lock, limit,
                         [this] { return state_->waiting.empty() && state_->in_hand == 0; });
}

LineWriter::Backlog LineWriter::backlog() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  Backlog backlog{state_->waiting.size() + state_->in_hand};
  if (backlog.lines > 0) {
    const auto since = state_->in_hand > 0 ? state_->in_hand_since : state_->waits_since;
    backlog.age = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - since);
  }
  return backlog;
}

// state.in_hand lines, until they are written or the end is asked for.
void LineWriter::WriteOut(State& state, std::vector<std::string>& lines) {
  while (true) {
    const size_t written = std::min(state.write(lines), lines.size());
    lines.erase(lines.begin(), lines.begin() + static_cast<std::ptrdiff_t>(written));
    std::unique_lock<std::mutex> lock(state.mutex);
    state.in_hand = lines.size();
    if (lines.empty() || state.stopping) {
      return;
    }
    state.added.wait_for(lock, kPauseAfterFailure, [&] { return state.stopping; });
  }
}

void LineWriter::Run(State& state) {
  std::vector<std::string> lines;
  std::unique_lock<std::mutex> lock(state.mutex);
  while (state.in_hand == 0) {
    if (state.waiting.empty()) {
      if (state.stopping) {
        break;
      }
      state.asleep = true;
      state.added.wait(lock, [&] { return !state.asleep || state.stopping; });
      state.asleep = false;
      continue;
    }
    lines.assign(std::make_move_iterator(state.waiting.begin()),
                 std::make_move_iterator(state.waiting.end()));
    state.waiting.clear();
    state.in_hand = lines.size();
    state.in_hand_since = state.waits_since;
    lock.unlock();
    WriteOut(state, lines);
    lock.lock();
    state.taken.notify_all();
    state.added.wait_for(lock, kPause, [&] { return state.stopping; });
  }
  state.ended = true;
  state.taken.notify_all();
}

}  // namespace patchflow
