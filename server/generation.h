// One accepted generation, from admission to its end.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "patchflow/v1/image_generation.pb.h"
#include "server/clock.h"
#include "server/cost_model.h"
#include "server/holders.h"
#include "server/identity.h"

namespace patchflow {

class RequestTrace;

// A finished image: header and file.
struct EncodedImage {
  v1::ImageHeader header;
  std::string data;
};

// Names a generation: each owner has request_ids of its own.
struct GenerationKey {
  std::string owner;
  std::string request_id;

  friend auto operator<=>(const GenerationKey&, const GenerationKey&) = default;
};

// What was accepted. Never changes.
struct GenerationSpec {
  std::string request_id;
  Identity owner;
  std::string fingerprint;  // Of prompt, image, sampling, output and model as sent.
  std::string prompt;
  std::string negative_prompt;
  bool embed_metadata = false;
  std::string software;         // That accepted it, as embedded metadata name it.
  bool provenance_mark = true;  // Files say that a model made them.
  int preview_every_steps = 0;
  int preview_max_edge = 0;
  v1::Priority priority = v1::PRIORITY_NORMAL;
  v1::Accepted accepted;  // With plan_digest and the effective parameters.
  int ranks = 1;          // Of the group that the plan is of.
  std::optional<Estimate> estimate;
  // The sooner of the request's and, unless it detaches, the call's.
  std::optional<Clock::time_point> deadline;

  const v1::EffectiveParams& params() const { return accepted.effective(); }
  GenerationKey key() const { return {owner.name, request_id}; }
};

// Where a generation stands, at one moment.
struct Standing {
  v1::State state = v1::STATE_QUEUED;
  int image_index = 0;  // At work.
  int step = 0;         // Done of that image.
  int attempt = 1;
  int images_done = 0;
  int queue_position = 0;
  uint64_t progress_version = 0;  // Rises with every change of the above.
  std::shared_ptr<const v1::Preview> preview;
  uint64_t preview_version = 0;
  absl::Status status;  // Once it has ended.

  bool ended() const { return state >= v1::STATE_SUCCEEDED; }
};

// Thread-safe. Holds every finished image until it is destroyed itself, so a reader of any speed
// gets all of them, and no image is made twice.
class Generation {
 public:
  using Subscriber = GenerationSubscriber;
  // Called once, when the generation has ended and before its subscribers hear of it.
  using EndHook = std::function<void(Generation&)>;

  Generation(GenerationSpec spec, EndHook on_end, absl::Time create_time = absl::Now());

  const GenerationSpec& spec() const { return spec_; }
  Clock::time_point created() const { return created_; }
  absl::Time create_time() const { return create_time_; }
  absl::Time end_time() const;  // InfiniteFuture before the end.
  Standing standing() const;
  bool ended() const;
  // Null until image `index` is finished.
  std::shared_ptr<const EncodedImage> image(int index) const;
  size_t bytes() const;  // Memory, about.
  size_t image_bytes() const;
  // Time at groups, of all attempts.
  absl::Duration run_time() const;
  // Its part of that, less where others shared the pass.
  absl::Duration own_time() const;
  v1::Progress ProgressAt(const Standing& standing) const;
  // As it stands; complete once it has ended.
  v1::Completed completed() const;

  // What was done when; null if nobody notes it.
  const std::shared_ptr<RequestTrace>& trace() const { return trace_; }

  // -- whoever made it, before anyone else knows of it
  void SetTrace(std::shared_ptr<RequestTrace> trace) { trace_ = std::move(trace); }
  // Images that an earlier life of the server made, null where one is missing; `attempt`: the next.
  void RestoreImages(std::vector<std::shared_ptr<const EncodedImage>> images, int attempt = 1);
  // And its end there, if it came to one, which is durable; the hook is not called.
  void RestoreEnd(const absl::Status& end, absl::Time end_time, v1::Completed completed);

  // -- subscribers
  // Holds it until it goes, `until` at the latest. False, and nothing done, if it has ended with an
  // error.
  bool Subscribe(const std::shared_ptr<Subscriber>& subscriber,
                 Clock::time_point until = Holders::kForever);
  // The same without a time of its own: as long as anyone holds it who does so now.
  bool Join(const std::shared_ptr<Subscriber>& subscriber);
  // Hears of changes, and does not hold it.
  void Listen(const std::shared_ptr<Subscriber>& listener);
  // Until then it goes on without subscribers.
  void Keep(Clock::time_point until = Holders::kForever);
  // Ends it with `status` if nobody holds it any more.
  void Unsubscribe(const Subscriber* subscriber, const absl::Status& status);
  // Ends it as a deadline does if nobody holds it any more: when the time is over of one that kept
  // it.
  void EndUnlessHeld();
  // How long `subscriber` holds it.
  Clock::time_point HeldUntil(const Subscriber* subscriber) const;
  // The error of a deadline that passes now: DEADLINE_IN_QUEUE or DEADLINE_RUNNING.
  absl::Status DeadlineError() const;

  // -- whoever makes the images
  // QUEUED -> RUNNING, with this part of a group, at most 1. False if it has ended.
  bool Start(double part = 1);
  // RUNNING -> QUEUED; the attempt rises. Nothing if it has ended.
  void Requeue();
  // The same without a new attempt: no group had begun with it.
  void PutBack();
  // A worker died at it before, maybe of it: it runs with nothing beside it, so that none but the
  // one that kills its worker can come to the third loss.
  bool suspect() const;
  // Times that a worker died at it. Rises by one.
  int RecordLoss();
  // How to stop the work at hand; called at once if the generation has ended, and at most once.
  // Null forgets it.
  void SetStopper(std::function<void()> stop);
  void SetStep(int image_index, int steps_done);
  void SetPreview(std::shared_ptr<const v1::Preview> preview);
  // Timings are added up. The last missing image ends the generation with OK.
  void AddImage(int index, std::shared_ptr<const EncodedImage> image,
                const std::map<std::string, absl::Duration>& timings, uint64_t peak_memory_bytes);
  std::vector<int> MissingImages() const;
  void SetQueuePosition(int position);

  // Ends it; the first end counts. Any thread.
  void End(const absl::Status& status);
  // The same, of what was never accepted.
  void Refuse(const absl::Status& status);
  bool refused() const { return refused_; }
  // Called once, when it has ended; at once if it has.
  void AtEnd(std::function<void()> hook);

  // It is in the store, where it goes on if this process can't finish it.
  void SetDurable() { durable_ = true; }
  bool durable() const { return durable_; }

 private:
  absl::Status DeadlineErrorLocked() const;
  void EndLocked(std::unique_lock<std::mutex>& lock, const absl::Status& status);
  void QueueAgain(bool new_attempt);
  Clock::duration QueueTime() const;
  Clock::duration RunTime() const;
  Clock::duration OwnTime() const;

  const GenerationSpec spec_;
  const EndHook on_end_;
  const Clock::time_point created_ = Clock::now();
  const absl::Time create_time_;
  std::shared_ptr<RequestTrace> trace_;

  mutable std::mutex mutex_;
  Standing standing_;
  std::vector<std::shared_ptr<const EncodedImage>> images_;
  std::map<std::string, absl::Duration> timings_;
  uint64_t peak_memory_bytes_ = 0;
  int losses_ = 0;
  bool suspect_ = false;
  Clock::time_point queued_at_ = created_;
  Clock::duration queue_time_{0};
  Clock::time_point started_at_;
  double part_ = 1;
  Clock::duration run_time_{0};  // Before started_at_, while running.
  Clock::duration own_time_{0};  // The same.
  Clock::time_point ended_at_;
  absl::Time end_time_ = absl::InfiniteFuture();
  std::optional<v1::Completed> restored_;
  std::function<void()> stop_;
  std::vector<std::function<void()>> at_end_;
  Holders holders_;
  std::atomic<bool> refused_ = false;
  std::atomic<bool> durable_ = false;
};

}  // namespace patchflow
