#include "server/generation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/errors.h"
#include "server/version.h"

namespace patchflow {
namespace {

v1::State EndState(const absl::Status& status) {
  return status.ok()                 ? v1::STATE_SUCCEEDED
         : absl::IsCancelled(status) ? v1::STATE_CANCELLED
                                     : v1::STATE_FAILED;
}

void Tell(const std::vector<std::shared_ptr<Generation::Subscriber>>& listeners) {
  for (const auto& listener : listeners) {
    listener->OnChange();
  }
}

}  // namespace

Generation::Generation(GenerationSpec spec, EndHook on_end, absl::Time create_time)
    : spec_(std::move(spec)), on_end_(std::move(on_end)), create_time_(create_time) {
  images_.resize(static_cast<size_t>(spec_.params().count()));
  standing_.queue_position = spec_.accepted.queue_position();
}

void Generation::RestoreImages(std::vector<std::shared_ptr<const EncodedImage>> images,
                               int attempt) {
  std::lock_guard<std::mutex> lock(mutex_);
  standing_.attempt = attempt;
  images_ = std::move(images);
  standing_.images_done = static_cast<int>(
      std::count_if(images_.begin(), images_.end(), [](const auto& i) { return i != nullptr; }));
}

void Generation::RestoreEnd(const absl::Status& end, absl::Time end_time, v1::Completed completed) {
  std::lock_guard<std::mutex> lock(mutex_);
  standing_.state = EndState(end);
  standing_.status = end;
  ended_at_ = Clock::now();
  end_time_ = end_time;
  standing_.attempt = std::max(1, completed.attempts());
  restored_ = std::move(completed);
  durable_ = true;
}

absl::Time Generation::end_time() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return end_time_;
}

Standing Generation::standing() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return standing_;
}

bool Generation::ended() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return standing_.ended();
}

std::shared_ptr<const EncodedImage> Generation::image(int index) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto i = static_cast<size_t>(index);
  return i < images_.size() ? images_[i] : nullptr;
}

size_t Generation::bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  size_t bytes = spec_.prompt.size() + spec_.negative_prompt.size() + 1024;
  for (const auto& image : images_) {
    bytes += image == nullptr ? 0 : image->data.size();
  }
  return bytes;
}

size_t Generation::image_bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  size_t bytes = 0;
  for (const auto& image : images_) {
    bytes += image == nullptr ? 0 : image->data.size();
  }
  return bytes;
}

absl::Duration Generation::run_time() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return absl::FromChrono(RunTime());
}

absl::Duration Generation::own_time() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return absl::FromChrono(OwnTime());
}

v1::Progress Generation::ProgressAt(const Standing& standing) const {
  v1::Progress progress;
  const int total = spec_.params().steps();
  progress.set_state(standing.state);
  progress.set_step(standing.step);
  progress.set_total_steps(total);
  progress.set_attempt(standing.attempt);
  progress.set_images_done(standing.images_done);
  if (standing.state == v1::STATE_QUEUED) {
    progress.set_queue_position(standing.queue_position);
  }
  if (standing.state == v1::STATE_RUNNING && spec_.estimate.has_value()) {
    const int step = standing.image_index < standing.images_done ? 0 : standing.step;
    const absl::Duration left =
        spec_.estimate->Images(spec_.params().count() - standing.images_done, total) -
        step * spec_.estimate->step;
    *progress.mutable_eta() = ToProto(std::max(absl::ZeroDuration(), left));
  }
  std::lock_guard<std::mutex> lock(mutex_);
  *progress.mutable_elapsed() = ToProto((standing_.ended() ? ended_at_ : Clock::now()) - created_);
  return progress;
}

v1::Completed Generation::completed() const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (restored_.has_value()) {
    return *restored_;
  }
  v1::Completed completed;
  const auto add = [&](const char* stage, absl::Duration duration) {
    auto* timing = completed.add_timings();
    timing->set_stage(stage);
    *timing->mutable_duration() = ToProto(duration);
  };
  add("queue", absl::FromChrono(QueueTime()));
  for (const char* stage : {"text_encode", "denoise", "vae_decode", "encode_image"}) {
    auto found = timings_.find(stage);
    add(stage, found == timings_.end() ? absl::ZeroDuration() : found->second);
  }
  const auto now = standing_.ended() ? ended_at_ : Clock::now();
  add("total", absl::FromChrono(now - created_));
  completed.set_peak_gpu_memory_bytes(peak_memory_bytes_);
  completed.set_server_version(kVersion);
  completed.set_attempts(standing_.attempt);
  return completed;
}

Clock::duration Generation::QueueTime() const {
  if (standing_.state == v1::STATE_QUEUED) {
    return queue_time_ + (Clock::now() - queued_at_);
  }
  return queue_time_;
}

Clock::duration Generation::RunTime() const {
  const bool running = standing_.state == v1::STATE_RUNNING;
  return run_time_ + (running ? Clock::now() - started_at_ : Clock::duration::zero());
}

Clock::duration Generation::OwnTime() const {
  const std::chrono::duration<double> of_this_run = part_ * (RunTime() - run_time_);
  return own_time_ + std::chrono::duration_cast<Clock::duration>(of_this_run);
}

bool Generation::Subscribe(const std::shared_ptr<Subscriber>& subscriber, Clock::time_point until) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (standing_.ended() && !standing_.status.ok()) {
    return false;
  }
  holders_.Add(subscriber, until);
  return true;
}

bool Generation::Join(const std::shared_ptr<Subscriber>& subscriber) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (standing_.ended() && !standing_.status.ok()) {
    return false;
  }
  holders_.Add(subscriber, standing_.ended() ? Holders::kForever : holders_.Until());
  return true;
}

void Generation::Listen(const std::shared_ptr<Subscriber>& listener) {
  std::lock_guard<std::mutex> lock(mutex_);
  holders_.AddListener(listener);
}

void Generation::Keep(Clock::time_point until) {
  std::lock_guard<std::mutex> lock(mutex_);
  holders_.Keep(until);
}

void Generation::Unsubscribe(const Subscriber* subscriber, const absl::Status& status) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (holders_.Drop(subscriber, Clock::now()) && !standing_.ended()) {
    EndLocked(lock, status);
  }
}

void Generation::EndUnlessHeld() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!standing_.ended() && !holders_.Any(Clock::now())) {
    EndLocked(lock, DeadlineErrorLocked());
  }
}

Clock::time_point Generation::HeldUntil(const Subscriber* subscriber) const {
  std::lock_guard<std::mutex> lock(mutex_);
  return holders_.UntilOf(subscriber);
}

absl::Status Generation::DeadlineError() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return DeadlineErrorLocked();
}

absl::Status Generation::DeadlineErrorLocked() const {
  if (standing_.state != v1::STATE_RUNNING) {
    const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(QueueTime()).count();
    return MakeError(absl::StatusCode::kDeadlineExceeded, reason::kDeadlineInQueue,
                     absl::StrCat("the deadline passed after ", waited, " ms in the queue"),
                     {{"waited_ms", absl::StrCat(waited)}});
  }
  const int total = spec_.params().steps();
  return MakeError(absl::StatusCode::kDeadlineExceeded, reason::kDeadlineRunning,
                   absl::StrCat("the deadline passed at step ", standing_.step, " of ", total,
                                " of image ", standing_.image_index, " of ", images_.size()),
                   {{"step", absl::StrCat(standing_.step)},
                    {"total", absl::StrCat(total)},
                    {"image_index", absl::StrCat(standing_.image_index)}});
}

bool Generation::Start(double part) {
  std::vector<std::shared_ptr<Subscriber>> listeners;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (standing_.ended()) {
      return false;
    }
    queue_time_ = QueueTime();
    started_at_ = Clock::now();
    part_ = part;
    standing_.state = v1::STATE_RUNNING;
    standing_.step = 0;
    ++standing_.progress_version;
    listeners = holders_.Listeners();
  }
  Tell(listeners);
  return true;
}

void Generation::Requeue() { QueueAgain(true); }

void Generation::PutBack() { QueueAgain(false); }

bool Generation::suspect() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return suspect_;
}

void Generation::QueueAgain(bool new_attempt) {
  std::vector<std::shared_ptr<Subscriber>> listeners;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (standing_.ended()) {
      return;
    }
    queued_at_ = Clock::now();
    own_time_ = OwnTime();
    run_time_ = RunTime();
    standing_.state = v1::STATE_QUEUED;
    standing_.step = 0;
    standing_.queue_position = 0;
    standing_.attempt += new_attempt ? 1 : 0;
    suspect_ = suspect_ || new_attempt;
    ++standing_.progress_version;
    listeners = holders_.Listeners();
  }
  Tell(listeners);
}

int Generation::RecordLoss() {
  std::lock_guard<std::mutex> lock(mutex_);
  return ++losses_;
}

void Generation::SetStopper(std::function<void()> stop) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!standing_.ended() || stop == nullptr) {
      stop_ = std::move(stop);
      return;
    }
  }
  stop();
}

void Generation::SetStep(int image_index, int steps_done) {
  std::vector<std::shared_ptr<Subscriber>> listeners;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (standing_.state != v1::STATE_RUNNING ||
        (standing_.image_index == image_index && standing_.step == steps_done)) {
      return;
    }
    standing_.image_index = image_index;
    standing_.step = steps_done;
    ++standing_.progress_version;
    listeners = holders_.Listeners();
  }
  Tell(listeners);
}

void Generation::SetPreview(std::shared_ptr<const v1::Preview> preview) {
  std::vector<std::shared_ptr<Subscriber>> listeners;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (standing_.state != v1::STATE_RUNNING) {
      return;
    }
    standing_.preview = std::move(preview);
    ++standing_.preview_version;
    listeners = holders_.Listeners();
  }
  Tell(listeners);
}

void Generation::AddImage(int index, std::shared_ptr<const EncodedImage> image,
                          const std::map<std::string, absl::Duration>& timings,
                          uint64_t peak_memory_bytes) {
  std::vector<std::shared_ptr<Subscriber>> listeners;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    auto& slot = images_.at(static_cast<size_t>(index));
    if (standing_.ended() || slot != nullptr) {
      return;
    }
    slot = std::move(image);
    for (const auto& [stage, duration] : timings) {
      timings_[stage] += duration;
    }
    peak_memory_bytes_ = std::max(peak_memory_bytes_, peak_memory_bytes);
    ++standing_.images_done;
    ++standing_.progress_version;
    if (standing_.images_done == static_cast<int>(images_.size())) {
      EndLocked(lock, absl::OkStatus());
      return;
    }
    listeners = holders_.Listeners();
  }
  Tell(listeners);
}

std::vector<int> Generation::MissingImages() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<int> missing;
  for (size_t i = 0; i < images_.size(); ++i) {
    if (images_[i] == nullptr) {
      missing.push_back(static_cast<int>(i));
    }
  }
  return missing;
}

void Generation::SetQueuePosition(int position) {
  std::vector<std::shared_ptr<Subscriber>> listeners;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (standing_.state != v1::STATE_QUEUED || standing_.queue_position == position) {
      return;
    }
    standing_.queue_position = position;
    ++standing_.progress_version;
    listeners = holders_.Listeners();
  }
  Tell(listeners);
}

void Generation::End(const absl::Status& status) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!standing_.ended()) {
    EndLocked(lock, status);
  }
}

void Generation::Refuse(const absl::Status& status) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!standing_.ended()) {
    refused_ = true;
    EndLocked(lock, status);
  }
}

void Generation::AtEnd(std::function<void()> hook) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!standing_.ended()) {
      at_end_.push_back(std::move(hook));
      return;
    }
  }
  hook();
}

void Generation::EndLocked(std::unique_lock<std::mutex>& lock, const absl::Status& status) {
  queue_time_ = QueueTime();
  own_time_ = OwnTime();
  run_time_ = RunTime();
  standing_.state = EndState(status);
  standing_.status = status;
  standing_.preview = nullptr;
  ++standing_.progress_version;
  ended_at_ = Clock::now();
  end_time_ = absl::Now();
  auto listeners = holders_.Listeners();
  auto stop = std::move(stop_);
  stop_ = nullptr;
  const auto at_end = std::exchange(at_end_, {});
  lock.unlock();
  if (stop != nullptr && !status.ok()) {  // With all images there is nothing left to stop.
    stop();
  }
  on_end_(*this);
  for (const auto& hook : at_end) {
    hook();
  }
  Tell(listeners);
}

}  // namespace patchflow
