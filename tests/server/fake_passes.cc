#include "tests/server/fake_passes.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

constexpr auto kCollects = std::chrono::milliseconds(10);

std::string ShapeOf(const worker::v1::ExecuteRequest& request) {
  const v1::EffectiveParams& params = request.params();
  return absl::StrCat(params.width(), "x", params.height(), " ", params.steps(), " ",
                      params.guidance_scale(), " ", params.scheduler());
}

}  // namespace

bool FakePasses::Take(const worker::v1::ExecuteRequest& request, Seat& seat) {
  const int images = request.image_indices_size();
  const std::string shape = ShapeOf(request);
  std::unique_lock<std::mutex> lock(mutex_);
  if (on_ranks_ == 0) {
    ++pass_;
    images_ = 0;
    shape_ = shape;
    begins_ = Clock::now() + kCollects;
  } else if (Clock::now() >= begins_ || shape != shape_ || images_ + images > batch_size_) {
    return false;
  }
  images_ += images;
  ++on_ranks_;
  seat = {.has_ranks = true, .is_tail = false, .pass = pass_};
  if (images_ >= batch_size_) {
    begins_ = Clock::now();
    changed_.notify_all();
  }
  while (!stopped_ && pass_ == seat.pass && Clock::now() < begins_) {
    changed_.wait_until(lock, begins_);
  }
  return true;
}

void FakePasses::LeaveRanks(Seat& seat) {
  std::lock_guard<std::mutex> lock(mutex_);
  on_ranks_ -= std::exchange(seat.has_ranks, false) ? 1 : 0;
  changed_.notify_all();
}

bool FakePasses::BecomeTail(Seat& seat, const std::function<bool()>& gave_up) {
  std::unique_lock<std::mutex> lock(mutex_);
  Await(
      lock, [&] { return !HasOtherTail(seat); }, gave_up);
  if (HasOtherTail(seat)) {
    return false;
  }
  ++tails_;
  tail_pass_ = seat.pass;
  seat.is_tail = true;
  seat.has_ranks = false;
  --on_ranks_;
  changed_.notify_all();
  Await(
      lock, [&] { return on_ranks_ == 0 || pass_ != seat.pass; }, gave_up);
  return true;
}

void FakePasses::LeaveTail(Seat& seat) {
  std::lock_guard<std::mutex> lock(mutex_);
  tails_ -= std::exchange(seat.is_tail, false) ? 1 : 0;
  changed_.notify_all();
}

void FakePasses::Await(std::unique_lock<std::mutex>& lock, const std::function<bool()>& done,
                       const std::function<bool()>& gave_up) {
  while (!done() && !stopped_ && !gave_up()) {
    changed_.wait_for(lock, std::chrono::milliseconds(10));
  }
}

void FakePasses::Stop() {
  std::lock_guard<std::mutex> lock(mutex_);
  stopped_ = true;
  changed_.notify_all();
}

bool FakePasses::busy() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return on_ranks_ > 0;
}

}  // namespace patchflow
