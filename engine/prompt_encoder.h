// Prompts as the transformer takes them: tokenized, encoded, stacked by branch.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "engine/ports.h"
#include "engine/text/text_encoder.h"
#include "engine/text/tokenizer.h"
#include "engine/text_cache.h"
#include "engine/text_hints.h"
#include "engine/transformer.h"

namespace patchflow {

// Each text is encoded alone, padded to max_tokens, so that its embedding depends on nothing else;
// the last few are kept, which spares the empty negative prompt and the prompt of a request for
// several images. Without hints, what is kept depends on the requests alone, so that ranks of a
// tensor axis stay in step: hints are for one of one rank alone. Not thread-safe.
class PromptEncoder {
 public:
  // `hints`: texts to encode beside what the device does for the caller, on a thread and in a
  // stream of their own, so that they are there when they are asked for. Null: none.
  // `batch_size`: rows of the batches to come. The texts of two are kept, and four more.
  PromptEncoder(std::unique_ptr<Tokenizer> tokenizer, std::unique_ptr<TextEncoder> encoder,
                PartialSum& tensor_axis, int max_tokens, at::Device device,
                std::shared_ptr<TextHints> hints = nullptr, int batch_size = 1);
  // Of a hint, it waits for one block of the text encoder.
  ~PromptEncoder() = default;

  struct Texts {
    const std::string& positive;
    const std::string& negative;
  };
  // Of a batch of so many rows, the first image's repeated behind the last one's: all negative
  // rows, then all positive ones, or these alone with `positive_only`. Collective of the tensor
  // axis.
  Prompt Encode(const std::vector<Texts>& images, size_t rows, bool positive_only);

 private:
  Prompt EncodeOne(const std::string& text);
  Prompt EncodeNow(const std::string& text, PartialSum& tensor_axis) const;
  void FollowHints(const std::stop_token& stop);

  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<TextEncoder> encoder_;
  PartialSum& tensor_axis_;
  int max_tokens_;
  at::Device device_;
  TextCache cache_;
  const std::shared_ptr<TextHints> hints_;
  std::jthread ahead_;  // Uses all of the above.
};

}  // namespace patchflow
