#include "server/outbox.h"

#include <algorithm>

namespace patchflow {
namespace {

constexpr int kDefaultChunkBytes = 256 << 10;

}  // namespace

Outbox::Outbox(std::shared_ptr<Generation> generation, const v1::StreamOptions& options)
    : generation_(std::move(generation)),
      progress_every_(std::max(1, options.progress_every_steps())),
      previews_(options.preview_every_steps() > 0),
      chunk_bytes_(static_cast<size_t>(options.max_chunk_bytes() > 0 ? options.max_chunk_bytes()
                                                                     : kDefaultChunkBytes)) {
  sent_.progress_version = UINT64_MAX;
}

v1::GenerateImagesResponse Outbox::Message(uint64_t skipped) {
  v1::GenerateImagesResponse message;
  message.set_request_id(generation_->spec().request_id);
  sequence_ += 1 + skipped;
  message.set_sequence(sequence_);
  return message;
}

std::optional<v1::GenerateImagesResponse> Outbox::Next() {
  if (end_.has_value()) {
    return std::nullopt;
  }
  more_ = false;
  if (!accepted_sent_) {
    accepted_sent_ = true;
    v1::GenerateImagesResponse message = Message();
    *message.mutable_accepted() = generation_->spec().accepted;
    return message;
  }
  const Standing now = generation_->standing();
  if (now.ended() && !now.status.ok()) {
    end_ = now.status;
    return std::nullopt;
  }
  std::optional<v1::GenerateImagesResponse> message;
  if (image_part_next_) {
    message = NextImagePart();
  }
  if (!message.has_value() && !now.ended()) {
    message = NextProgress(now);
    if (!message.has_value()) {
      message = NextPreview(now);
    }
    image_part_next_ = true;
  } else {
    image_part_next_ = now.ended();
  }
  if (!message.has_value()) {
    message = NextImagePart();
  }
  if (message.has_value() || !now.ended()) {
    more_ = more_ || now.ended();
    return message;
  }
  message = Message();
  *message->mutable_completed() = generation_->completed();
  end_ = absl::OkStatus();
  return message;
}

std::optional<v1::GenerateImagesResponse> Outbox::NextProgress(const Standing& now) {
  if (now.progress_version == sent_.progress_version) {
    return std::nullopt;
  }
  const bool same_run = sent_.progress_version != UINT64_MAX && now.state == sent_.state &&
                        now.attempt == sent_.attempt && now.image_index == sent_.image_index &&
                        now.images_done == sent_.images_done &&
                        now.queue_position == sent_.queue_position;
  uint64_t skipped = 0;
  if (same_run) {
    const int due = now.step / progress_every_ - sent_.step / progress_every_;
    if (due <= 0) {
      return std::nullopt;
    }
    skipped = static_cast<uint64_t>(due - 1);
  }
  const auto preview_version = sent_.preview_version;
  sent_ = now;
  sent_.preview = nullptr;
  sent_.preview_version = preview_version;
  v1::GenerateImagesResponse message = Message(skipped);
  *message.mutable_progress() = generation_->ProgressAt(now);
  return message;
}

std::optional<v1::GenerateImagesResponse> Outbox::NextPreview(const Standing& now) {
  if (!previews_ || now.preview == nullptr || now.preview_version == sent_.preview_version) {
    return std::nullopt;
  }
  const uint64_t skipped = now.preview_version - sent_.preview_version - 1;
  sent_.preview_version = now.preview_version;
  v1::GenerateImagesResponse message = Message(skipped);
  *message.mutable_preview() = *now.preview;
  return message;
}

std::optional<v1::GenerateImagesResponse> Outbox::NextImagePart() {
  if (image_ == nullptr) {
    image_ = generation_->image(image_index_);
    if (image_ == nullptr) {
      return std::nullopt;
    }
    offset_ = 0;
    v1::GenerateImagesResponse message = Message();
    *message.mutable_image_header() = image_->header;
    more_ = !image_->data.empty();
    if (image_->data.empty()) {
      image_ = nullptr;
      ++image_index_;
    }
    return message;
  }
  v1::GenerateImagesResponse message = Message();
  auto* chunk = message.mutable_image_chunk();
  chunk->set_image_index(image_index_);
  chunk->set_offset(offset_);
  chunk->set_data(image_->data.substr(offset_, chunk_bytes_));
  offset_ += chunk->data().size();
  more_ = offset_ < image_->data.size();
  if (!more_) {
    image_ = nullptr;
    ++image_index_;
  }
  return message;
}

}  // namespace patchflow
