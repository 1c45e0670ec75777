#include "worker/event_queue.h"

#include <algorithm>
#include <utility>

#include "worker/convert.h"

namespace patchflow {
namespace {

constexpr size_t kChunkBytes = size_t{256} << 10;

}  // namespace

template <typename T>
bool EventQueue::Conflate(T newest) {
  const std::lock_guard lock(mutex_);
  if (closed_) return false;
  for (auto event = waiting_.end(); event != waiting_.begin();) {
    --event;
    const T* older = std::get_if<T>(&*event);
    if (older != nullptr && older->image_index() == newest.image_index()) {
      waiting_.erase(event);
      break;
    }
    if (!std::holds_alternative<worker::v1::StepEvent>(*event) &&
        !std::holds_alternative<v1::Preview>(*event)) {
      break;
    }
  }
  waiting_.emplace_back(std::move(newest));
  return true;
}

void EventQueue::OnPhase(int image_index, JobPhase phase, int steps_done) {
  if (Conflate(StepEventOf(image_index, phase, steps_done))) wake_();
}

void EventQueue::OnPreview(int image_index, int steps_done, std::string png) {
  if (Conflate(PreviewOf(image_index, steps_done, std::move(png)))) wake_();
}

void EventQueue::OnTrace(int image_index, const std::vector<RankTrace>& ranks) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    waiting_.emplace_back(ImageTraceOf(image_index, received_, ranks));
  }
  wake_();
}

void EventQueue::OnImage(FinishedImage image) {
  {
    std::unique_lock lock(mutex_);
    room_.wait(lock, [this] { return closed_ || !image_waits_; });
    if (closed_) return;
    image_waits_ = true;
    waiting_.emplace_back(Sending{.image = std::move(image)});
  }
  wake_();
}

void EventQueue::OnRanksFree() {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    waiting_.emplace_back(worker::v1::RanksFree());
  }
  wake_();
}

void EventQueue::AwaitTaken() {
  std::unique_lock lock(mutex_);
  room_.wait(lock, [this] { return closed_ || !image_waits_; });
}

std::optional<worker::v1::ExecuteResponse> EventQueue::Take() {
  const std::lock_guard lock(mutex_);
  if (waiting_.empty()) return std::nullopt;
  if (auto* step = std::get_if<worker::v1::StepEvent>(&waiting_.front())) {
    worker::v1::ExecuteResponse message;
    *message.mutable_step() = std::move(*step);
    waiting_.pop_front();
    return message;
  }
  if (auto* preview = std::get_if<v1::Preview>(&waiting_.front())) {
    worker::v1::ExecuteResponse message;
    *message.mutable_preview() = std::move(*preview);
    waiting_.pop_front();
    return message;
  }
  if (auto* trace = std::get_if<worker::v1::ImageTrace>(&waiting_.front())) {
    worker::v1::ExecuteResponse message;
    *message.mutable_image_trace() = std::move(*trace);
    message.mutable_image_trace()->set_sent_ns(NanosecondsOf(std::chrono::steady_clock::now()));
    waiting_.pop_front();
    return message;
  }
  if (std::holds_alternative<worker::v1::RanksFree>(waiting_.front())) {
    worker::v1::ExecuteResponse message;
    message.mutable_ranks_free();
    waiting_.pop_front();
    return message;
  }
  return TakePart(std::get<Sending>(waiting_.front()));
}

std::optional<worker::v1::ExecuteResponse> EventQueue::TakePart(Sending& sending) {
  worker::v1::ExecuteResponse message;
  const FinishedImage& image = sending.image;
  if (!std::exchange(sending.header_taken, true)) {
    *message.mutable_image_header() = ImageHeaderOf(image);
  } else if (sending.taken_bytes < image.bytes.size()) {
    v1::ImageChunk& chunk = *message.mutable_image_chunk();
    chunk.set_image_index(image.index);
    chunk.set_offset(sending.taken_bytes);
    chunk.set_data(image.bytes.data() + sending.taken_bytes,
                   std::min(kChunkBytes, image.bytes.size() - sending.taken_bytes));
    sending.taken_bytes += chunk.data().size();
  } else {
    *message.mutable_image_done() = ImageDoneOf(image);
    waiting_.pop_front();
    image_waits_ = false;
    room_.notify_all();
  }
  return message;
}

void EventQueue::Close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  waiting_.clear();
  room_.notify_all();
}

}  // namespace patchflow
