#include "worker/previewer.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/image/image.h"
#include "engine/status_of.h"
#include "worker/log.h"

namespace patchflow {
namespace {

constexpr std::chrono::seconds kPatience{1};

absl::StatusOr<std::string> DrawFile(const DrawPreview& draw, const Metadata& metadata) {
  return StatusOrOfThrowing<std::string>([&] {
    return EncodeImage(draw(), {.format = ImageFormat::kPng, .metadata = metadata, .threads = 1});
  });
}

}  // namespace

// Kept alive by a thread that is left behind, and by requests of ranks that are.
struct Previewer::State {
  struct Preview {
    int image_index = 0;
    int steps_done = 0;
    DrawPreview draw;
  };

  State(JobEvents& job, Metadata of_previews) : events(job), metadata(std::move(of_previews)) {}

  JobEvents& events;
  const Metadata metadata;
  std::mutex mutex;
  std::condition_variable changed;
  int64_t turn = 0;  // Of the image whose previews are taken.
  bool open = false;
  bool quit = false;
  bool ended = false;
  std::optional<Preview> waiting;
  std::vector<Preview> replaced;  // To be destroyed on the thread, since that may wait.
  bool drawing = false;

  void Take(int64_t of_turn, Preview preview) {
    const std::lock_guard lock(mutex);
    if (!open || of_turn != turn) return;
    Discard();
    waiting = std::move(preview);
    changed.notify_all();
  }

  void Discard() {
    if (waiting.has_value()) replaced.push_back(*std::exchange(waiting, std::nullopt));
  }

  void Run() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [this] { return quit || waiting.has_value(); });
      if (quit) break;
      Preview preview = *std::exchange(waiting, std::nullopt);
      std::vector<Preview> old = std::move(replaced);
      replaced.clear();
      const int64_t of_turn = turn;
      drawing = true;
      lock.unlock();
      const absl::StatusOr<std::string> file = DrawFile(preview.draw, metadata);
      preview.draw = nullptr;
      old.clear();
      if (!file.ok()) {
        Log(LogLevel::kWarning, "no preview", {{"why", file.status().ToString()}});
      }
      lock.lock();
      drawing = false;
      // Under the lock: nothing is handed over after Finish().
      if (file.ok() && open && of_turn == turn) {
        events.OnPreview(preview.image_index, preview.steps_done, *file);
      }
      changed.notify_all();
    }
    Discard();
    std::vector<Preview> old = std::move(replaced);
    replaced.clear();
    lock.unlock();
    old.clear();
    lock.lock();
    ended = true;
    changed.notify_all();
  }
};

Previewer::Previewer(JobEvents& events, Metadata metadata)
    : state_(std::make_shared<State>(events, std::move(metadata))),
      thread_([state = state_] { state->Run(); }) {}

Previewer::~Previewer() {
  bool ended = false;
  {
    std::unique_lock lock(state_->mutex);
    state_->open = false;
    state_->quit = true;
    state_->changed.notify_all();
    ended = state_->changed.wait_for(lock, kPatience, [this] { return state_->ended; });
  }
  if (ended) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

std::function<void(int, DrawPreview)> Previewer::Of(int image_index) {
  const std::lock_guard lock(state_->mutex);
  state_->open = true;
  const int64_t turn = ++state_->turn;
  return [state = state_, image_index, turn](int steps_done, DrawPreview draw) {
    state->Take(turn, {image_index, steps_done, std::move(draw)});
  };
}

void Previewer::Finish() {
  std::unique_lock lock(state_->mutex);
  state_->changed.wait_for(lock, kPatience,
                           [this] { return !state_->waiting.has_value() && !state_->drawing; });
  state_->open = false;
  state_->Discard();
}

}  // namespace patchflow
