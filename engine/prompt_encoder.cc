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

Prompt PromptEncoder::Encode(const std::string& positive, const std::string& negative,
                             bool positive_only) {
  if (positive_only) return EncodeOne(positive);
  const Prompt without = EncodeOne(negative);
  const Prompt with = EncodeOne(positive);
  return {.text_BLD = at::cat({without.text_BLD, with.text_BLD}),
          .mask_BL = at::cat({without.mask_BL, with.mask_BL})};
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
