#include "client/generation_stream.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

template <typename... Parts>
absl::Status Broken(const Parts&... parts) {
  return absl::DataLossError(absl::StrCat("the server's stream is broken: ", parts...));
}

bool IsRequestId(const std::string& id) {
  if (id.empty() || id.size() > 64) return false;
  for (char c : id) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_' && c != '-')
      return false;
  }
  return true;
}

}  // namespace

GenerationStream::GenerationStream(std::string request_id, StreamContent content,
                                   GenerationEvents& events)
    : request_id_(std::move(request_id)), content_(content), events_(events) {}

absl::Status GenerationStream::Take(v1::GenerateImagesResponse& message) {
  const std::string& id = message.request_id();
  if (!IsRequestId(id)) return Broken("request_id \"", id, "\" is not 1 to 64 of [A-Za-z0-9._-]");
  if (request_id_.empty()) request_id_ = id;
  if (id != request_id_)
    return Broken("a message of request \"", id, "\" instead of \"", request_id_, "\"");
  if (accepted_ && message.sequence() <= sequence_) {
    return Broken("sequence ", message.sequence(), " after ", sequence_);
  }
  if (completed_) return Broken("a message after Completed");
  if (!accepted_ && !message.has_accepted()) return Broken("the first message is not Accepted");
  sequence_ = message.sequence();
  return Dispatch(message);
}

absl::Status GenerationStream::Dispatch(v1::GenerateImagesResponse& message) {
  switch (message.event_case()) {
    case v1::GenerateImagesResponse::kAccepted:
      return TakeAccepted(message.accepted());
    case v1::GenerateImagesResponse::kProgress:
      events_.OnProgress(message.progress());
      break;
    case v1::GenerateImagesResponse::kPreview:
      events_.OnPreview(message.preview());
      break;
    case v1::GenerateImagesResponse::kImageHeader:
      return TakeHeader(std::move(*message.mutable_image_header()));
    case v1::GenerateImagesResponse::kImageChunk:
      return TakeChunk(message.image_chunk());
    case v1::GenerateImagesResponse::kCompleted:
      return TakeCompleted(message.completed());
    case v1::GenerateImagesResponse::EVENT_NOT_SET:
      break;
  }
  return absl::OkStatus();
}

absl::Status GenerationStream::TakeAccepted(const v1::Accepted& accepted) {
  if (accepted_) return Broken("Accepted comes twice");
  accepted_ = true;
  num_images_ = content_ == StreamContent::kImages ? accepted.effective().count() : 0;
  events_.OnAccepted(request_id_, accepted);
  return absl::OkStatus();
}

absl::Status GenerationStream::TakeHeader(v1::ImageHeader header) {
  if (header_) {
    return Broken("image ", header.image_index(), " begins after ", bytes_.size(), " of ",
                  header_->total_bytes(), " bytes of image ", header_->image_index());
  }
  if (header.image_index() != images_done_ || images_done_ >= num_images_) {
    return Broken("image ", header.image_index(), " begins, image ", images_done_, " of ",
                  num_images_, " is next");
  }
  if (header.total_bytes() == 0) return Broken("image ", header.image_index(), " has no bytes");
  header_ = std::move(header);
  bytes_.clear();
  return absl::OkStatus();
}

absl::Status GenerationStream::TakeChunk(const v1::ImageChunk& chunk) {
  if (!header_) return Broken("a chunk of image ", chunk.image_index(), " without its header");
  if (chunk.image_index() != header_->image_index()) {
    return Broken("a chunk of image ", chunk.image_index(), " within image ",
                  header_->image_index());
  }
  if (chunk.offset() != bytes_.size()) {
    return Broken("image ", chunk.image_index(), ": a chunk at offset ", chunk.offset(), " after ",
                  bytes_.size(), " bytes");
  }
  if (chunk.data().size() > header_->total_bytes() - bytes_.size()) {
    return Broken("image ", chunk.image_index(), ": more than its ", header_->total_bytes(),
                  " bytes");
  }
  hasher_.Add(chunk.data());
  bytes_ += chunk.data();
  if (bytes_.size() < header_->total_bytes()) return absl::OkStatus();

  if (hasher_.Finish() != header_->sha256()) {
    return Broken("image ", chunk.image_index(), ": the SHA-256 of its bytes is not the header's");
  }
  ++images_done_;
  const v1::ImageHeader header = *std::exchange(header_, std::nullopt);
  return events_.OnImage(header, std::exchange(bytes_, {}));
}

absl::Status GenerationStream::TakeCompleted(const v1::Completed& completed) {
  if (header_) return Broken("Completed within image ", header_->image_index());
  if (images_done_ != num_images_) {
    return Broken("Completed after ", images_done_, " of ", num_images_, " images");
  }
  completed_ = true;
  events_.OnCompleted(completed);
  return absl::OkStatus();
}

absl::Status GenerationStream::Finish() const {
  if (!completed_) return Broken("it ended without Completed");
  return absl::OkStatus();
}

}  // namespace patchflow
