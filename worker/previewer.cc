#include "worker/previewer.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <iterator>
#include <mutex>
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
  struct Target {
    JobEvents* events;
    int image_index;
    Metadata metadata;
    std::string request_id;
  };
  struct Preview {
    std::shared_ptr<const Target> target;
    int steps_done = 0;
    DrawPreview draw;
  };

  std::mutex mutex;
  std::condition_variable changed;
  int64_t turn = 0;  // Of the pass whose previews are taken.
  bool quit = false;
  bool ended = false;
  std::deque<Preview> waiting;
  std::vector<Preview> replaced;  // To be destroyed on the thread, since that may wait.
  bool drawing = false;

  void Take(int64_t of_turn, Preview preview) {
    const std::lock_guard lock(mutex);
    if (of_turn != turn) return;
    const auto older = std::find_if(waiting.begin(), waiting.end(), [&](const Preview& one) {
      return one.target == preview.target;
    });
    if (older == waiting.end()) {
      waiting.push_back(std::move(preview));
    } else {
      replaced.push_back(std::exchange(*older, std::move(preview)));
    }
    changed.notify_all();
  }

  // What is drawn of the pass is handed over no more.
  void EndPass() {
    ++turn;
    std::move(waiting.begin(), waiting.end(), std::back_inserter(replaced));
    waiting.clear();
  }

  void Run() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [this] { return quit || !waiting.empty(); });
      if (quit) break;
      Preview preview = std::move(waiting.front());
      waiting.pop_front();
      std::vector<Preview> old = std::move(replaced);
      replaced.clear();
      const int64_t of_turn = turn;
      drawing = true;
      lock.unlock();
      const absl::StatusOr<std::string> file = DrawFile(preview.draw, preview.target->metadata);
      preview.draw = nullptr;
      old.clear();
      if (!file.ok()) {
        Log(LogLevel::kWarning, "no preview",
            {{"request_id", preview.target->request_id},
             {"index", preview.target->image_index},
             {"why", file.status().ToString()}});
      }
      lock.lock();
      drawing = false;
      // Under the lock: nothing is handed over after Finish().
      if (file.ok() && of_turn == turn) {
        preview.target->events->OnPreview(preview.target->image_index, preview.steps_done, *file);
      }
      changed.notify_all();
    }
    EndPass();
    std::vector<Preview> old = std::move(replaced);
    replaced.clear();
    lock.unlock();
    old.clear();
    lock.lock();
    ended = true;
    changed.notify_all();
  }
};

Previewer::Previewer()
    : state_(std::make_shared<State>()), thread_([state = state_] { state->Run(); }) {}

Previewer::~Previewer() {
  bool ended = false;
  {
    std::unique_lock lock(state_->mutex);
    state_->EndPass();
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

std::function<void(int, DrawPreview)> Previewer::Of(JobEvents& events, int image_index,
                                                    Metadata metadata, std::string request_id) {
  const auto target = std::make_shared<const State::Target>(
      State::Target{&events, image_index, std::move(metadata), std::move(request_id)});
  const std::lock_guard lock(state_->mutex);
  return [state = state_, target, turn = state_->turn](int steps_done, DrawPreview draw) {
    state->Take(turn, {target, steps_done, std::move(draw)});
  };
}

void Previewer::Finish() {
  std::unique_lock lock(state_->mutex);
  state_->changed.wait_for(lock, kPatience,
                           [this] { return state_->waiting.empty() && !state_->drawing; });
  state_->EndPass();
}

}  // namespace patchflow
