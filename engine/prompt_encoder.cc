#include "engine/prompt_encoder.h"

#include <exception>
#include <utility>

#include "engine/denoiser.h"
#include "engine/device.h"

namespace patchflow {
namespace {

// A text may be asked for again, and the next batch's texts are prepared beside this one's.
size_t KeptTexts(int batch_size) { return 2 * 2 * static_cast<size_t>(batch_size) + 4; }

Tensor RowOf(std::vector<int64_t> values, at::Device device) {
  return at::tensor(values, at::kLong).unsqueeze(0).to(device);
}

// Of a tensor axis of one rank.
class SumUnlessStopped final : public PartialSum {
 public:
  explicit SumUnlessStopped(std::stop_token stop) : stop_(std::move(stop)) {}
  Tensor Complete(Tensor partial) override {
    if (stop_.stop_requested()) throw Cancelled();
    return partial;
  }

 private:
  const std::stop_token stop_;
};

}  // namespace

PromptEncoder::PromptEncoder(std::unique_ptr<Tokenizer> tokenizer,
                             std::unique_ptr<TextEncoder> encoder, PartialSum& tensor_axis,
                             int max_tokens, at::Device device, std::shared_ptr<TextHints> hints,
                             int batch_size)
    : tokenizer_(std::move(tokenizer)),
      encoder_(std::move(encoder)),
      tensor_axis_(tensor_axis),
      max_tokens_(max_tokens),
      device_(device),
      cache_(KeptTexts(batch_size), device),
      hints_(std::move(hints)) {
  if (hints_ == nullptr) return;
  ahead_ = std::jthread([this](const std::stop_token& stop) { FollowHints(stop); });
}

Prompt PromptEncoder::Encode(const std::vector<Texts>& images, size_t rows, bool positive_only) {
  std::vector<Tensor> texts_BLD;
  std::vector<Tensor> masks_BL;
  for (const bool positive : {false, true}) {
    if (positive_only && !positive) continue;
    const size_t first = texts_BLD.size();
    for (const Texts& image : images) {
      const Prompt one = EncodeOne(positive ? image.positive : image.negative);
      texts_BLD.push_back(one.text_BLD);
      masks_BL.push_back(one.mask_BL);
    }
    texts_BLD.resize(first + rows, Tensor(texts_BLD[first]));
    masks_BL.resize(first + rows, Tensor(masks_BL[first]));
  }
  const auto together = [](const std::vector<Tensor>& all) {
    return all.size() == 1 ? all.front() : at::cat(all);
  };
  return {.text_BLD = together(texts_BLD),
          .mask_BL = together(masks_BL),
          .images = static_cast<int64_t>(rows)};
}

Prompt PromptEncoder::EncodeOne(const std::string& text) {
  return cache_.Get(
      text, [this](const std::string& missing) { return EncodeNow(missing, tensor_axis_); });
}

Prompt PromptEncoder::EncodeNow(const std::string& text, PartialSum& tensor_axis) const {
  const TokenIds tokens = tokenizer_->Encode(text, max_tokens_);
  const Tensor mask_BL = RowOf(tokens.mask, device_);
  return {.text_BLD = encoder_->Encode(RowOf(tokens.ids, device_), mask_BL, tensor_axis),
          .mask_BL = mask_BL};
}

void PromptEncoder::FollowHints(const std::stop_token& stop) {
  const DeviceThread thread(DeviceThread::MakeStream(device_, StreamPriority::kAhead));
  SumUnlessStopped sum(stop);
  const auto encode = [&](const std::string& text) {
    Prompt prompt = EncodeNow(text, sum);
    WaitForDevice(device_);
    return prompt;
  };
  while (const auto texts = hints_->Await(stop)) {
    for (const std::string& text : *texts) {
      try {
        cache_.Prepare(text, encode);
      } catch (const std::exception&) {
        break;  // Whoever asks for the text will find out for himself.
      }
    }
  }
}

}  // namespace patchflow
