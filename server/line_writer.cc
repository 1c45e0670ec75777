#include "server/line_writer.h"

#include <iterator>
#include <utility>

namespace patchflow {
namespace {

constexpr std::chrono::milliseconds kPause{2};

}  // namespace

LineWriter::LineWriter(size_t capacity, Full full, Write write)
    : capacity_(capacity), full_(full), write_(std::move(write)), thread_([this] { Run(); }) {}

LineWriter::~LineWriter() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  added_.notify_all();
  thread_.join();
}

void LineWriter::Add(std::string line) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (waiting_.size() >= capacity_) {
    if (full_ == Full::kWait) {
      taken_.wait(lock, [this] { return waiting_.size() < capacity_; });
    } else {
      waiting_.pop_front();
    }
  }
  waiting_.push_back(std::move(line));
  if (!std::exchange(asleep_, false)) {
    return;
  }
  lock.unlock();
  added_.notify_all();
}

void LineWriter::Flush(std::chrono::milliseconds limit) {
  std::unique_lock<std::mutex> lock(mutex_);
  taken_.wait_for(lock, limit, [this] { return waiting_.empty() && !writing_; });
}

void LineWriter::Run() {
  std::vector<std::string> lines;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    if (waiting_.empty()) {
      if (stopping_) {
        return;
      }
      asleep_ = true;
      added_.wait(lock, [this] { return !asleep_ || stopping_; });
      asleep_ = false;
      continue;
    }
    lines.assign(std::make_move_iterator(waiting_.begin()),
                 std::make_move_iterator(waiting_.end()));
    waiting_.clear();
    writing_ = true;
    lock.unlock();
    taken_.notify_all();
    write_(lines);
    lock.lock();
    writing_ = false;
    taken_.notify_all();
    added_.wait_for(lock, kPause, [this] { return stopping_; });
  }
}

}  // namespace patchflow
