#include "worker/encoder.h"

#include <chrono>
#include <condition_variable>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/status_of.h"
#include "worker/digest.h"
#include "worker/log.h"
#include "worker/watchdog_phase.h"

namespace patchflow {
namespace {

constexpr size_t kShapes = 4096;

absl::StatusOr<FinishedImage> Encode(const JobImage& asked, Generated made) {
  const auto begin = std::chrono::steady_clock::now();
  FinishedImage image{.index = asked.index,
                      .seed = asked.request.seed,
                      .width_px = made.image->width_px,
                      .height_px = made.image->height_px,
                      .format = asked.encode.format,
                      .bytes = {},
                      .sha256 = {},
                      .times = made.times,
                      .encode_begin = begin,
                      .encode_time = {},
                      .step_times = std::move(made.step_times),
                      .peak_memory_bytes = made.peak_memory_bytes};
  absl::StatusOr<std::string> bytes = EncodeImage(*made.image, asked.encode);
  if (!bytes.ok()) return bytes.status();
  image.bytes = *std::move(bytes);
  image.sha256 = Sha256(image.bytes);
  image.encode_time = absl::FromChrono(std::chrono::steady_clock::now() - begin);
  return image;
}

void LogImage(const std::string& request_id, const FinishedImage& image) {
  if (!Logs(LogLevel::kDebug)) return;
  Log(LogLevel::kDebug, "image made",
      {{"request_id", request_id},
       {"index", image.index},
       {"width_px", image.width_px},
       {"height_px", image.height_px},
       {"bytes", image.bytes.size()},
       {"steps", image.step_times.size()},
       {"text_seconds", absl::ToDoubleSeconds(image.times.text)},
       {"denoise_seconds", absl::ToDoubleSeconds(image.times.denoise)},
       {"decode_seconds", absl::ToDoubleSeconds(image.times.decode)},
       {"encode_seconds", absl::ToDoubleSeconds(image.encode_time)}});
}

}  // namespace

// Kept alive by a thread that is left behind.
struct Encoder::Encoding::Shared {
  JobImage asked;
  JobEvents* events = nullptr;
  std::string request_id;
  std::function<void()> before;

  std::mutex mutex;
  std::condition_variable changed;
  bool encoded = false;    // From then on it waits for whoever takes the image.
  bool abandoned = false;  // Before it was encoded.
  absl::Duration took;
  std::optional<absl::Status> result;

  void Run(Generated made) {
    absl::StatusOr<FinishedImage> image = StatusOrOfThrowing<FinishedImage>([&] {
      if (before) before();
      return Encode(asked, std::move(made));
    });
    {
      const std::lock_guard lock(mutex);
      if (abandoned) return;
      encoded = true;
      if (image.ok()) took = image->encode_time;
      changed.notify_all();
    }
    const absl::Status status = image.status();
    if (status.ok()) LogImage(request_id, *image);
    if (status.ok()) events->OnImage(*std::move(image));
    const std::lock_guard lock(mutex);
    result = status;
    changed.notify_all();
  }
};

Encoder::Encoding::~Encoding() { Wait().IgnoreError(); }

absl::Status Encoder::Encoding::Wait() {
  std::unique_lock lock(shared_->mutex);
  if (shared_->result.has_value() && !thread_.joinable()) return *shared_->result;
  if (!shared_->changed.wait_for(lock, absl::ToChronoNanoseconds(limit_),
                                 [this] { return shared_->encoded; })) {
    shared_->abandoned = true;
    shared_->result = WithWatchdogPhase(
        WithEngineReason(absl::UnavailableError(absl::StrCat(
                             "the encoding of image ", shared_->asked.index, " showed no end for ",
                             absl::FormatDuration(limit_), " in encode")),
                         "ENGINE_FAILED"),
        "encode");
    thread_.detach();
    return *shared_->result;
  }
  shared_->changed.wait(lock, [this] { return shared_->result.has_value(); });
  const absl::Status status = *shared_->result;
  const absl::Duration took = shared_->took;
  lock.unlock();
  thread_.join();
  if (status.ok()) record_(took);
  return status;
}

std::unique_ptr<Encoder::Encoding> Encoder::Begin(const JobImage& asked, Generated made,
                                                  JobEvents& events, std::string request_id) {
  const Key key(made.image->width_px, made.image->height_px, asked.encode.format);
  auto encoding = std::make_unique<Encoding>();
  {
    const std::lock_guard lock(mutex_);
    encoding->limit_ = limits_[key].Limit(options_.first_run_timeout, options_.phase_timeout);
  }
  encoding->record_ = [this, key](absl::Duration took) {
    const std::lock_guard lock(mutex_);
    if (limits_.size() >= kShapes) limits_.clear();
    limits_[key].Record(took);
  };
  encoding->shared_ = std::make_shared<Encoding::Shared>();
  encoding->shared_->asked = asked;
  encoding->shared_->events = &events;
  encoding->shared_->request_id = std::move(request_id);
  encoding->shared_->before = options_.before;
  encoding->thread_ = std::thread([shared = encoding->shared_, made = std::move(made)]() mutable {
    shared->Run(std::move(made));
  });
  return encoding;
}

}  // namespace patchflow
