#include "engine/prompt_encoder.h"

#include <algorithm>
#include <utility>

namespace patchflow {
namespace {

Tensor RowOf(std::vector<int64_t> values, at::Device device) {
  return at::tensor(values, at::kLong).unsqueeze(0).to(device);
}

}  // namespace

PromptEncoder::PromptEncoder(std::unique_ptr<Tokenizer> tokenizer,
                             std::unique_ptr<TextEncoder> encoder, PartialSum& tensor_axis,
                             int max_tokens, at::Device device)
    : tokenizer_(std::move(tokenizer)),
      encoder_(std::move(encoder)),
      tensor_axis_(tensor_axis),
      max_tokens_(max_tokens),
      device_(device) {}

Prompt PromptEncoder::Encode(const std::vector<Texts>& images, bool positive_only) {
  std::vector<Tensor> texts_BLD;
  std::vector<Tensor> masks_BL;
  const auto add = [&](const std::string& text) {
    const Prompt one = EncodeOne(text);
    texts_BLD.push_back(one.text_BLD);
    masks_BL.push_back(one.mask_BL);
  };
  for (const Texts& image : images) {
    if (!positive_only) add(image.negative);
  }
  for (const Texts& image : images) add(image.positive);
  const auto rows = [](const std::vector<Tensor>& all) {
    return all.size() == 1 ? all.front() : at::cat(all);
  };
  return {.text_BLD = rows(texts_BLD),
          .mask_BL = rows(masks_BL),
          .images = static_cast<int64_t>(images.size())};
}

Prompt PromptEncoder::EncodeOne(const std::string& text) {
  const auto kept =
      std::find_if(kept_.begin(), kept_.end(), [&](const Kept& k) { return k.text == text; });
  if (kept != kept_.end()) {
    kept_.splice(kept_.begin(), kept_, kept);
    return kept_.front().prompt;
  }
  const TokenIds tokens = tokenizer_->Encode(text, max_tokens_);
  const Tensor mask_BL = RowOf(tokens.mask, device_);
  const Tensor text_BLD = encoder_->Encode(RowOf(tokens.ids, device_), mask_BL, tensor_axis_);
  kept_.push_front({text, {.text_BLD = text_BLD, .mask_BL = mask_BL}});
  if (kept_.size() > kKept) kept_.pop_back();
  return kept_.front().prompt;
}

}  // namespace patchflow
