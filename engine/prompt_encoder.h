// Prompts as the transformer takes them: tokenized, encoded, stacked by branch.
#pragma once

#include <ATen/core/Tensor.h>

#include <list>
#include <memory>
#include <string>
#include <vector>

#include "engine/ports.h"
#include "engine/text/text_encoder.h"
#include "engine/text/tokenizer.h"
#include "engine/transformer.h"

namespace patchflow {

// Each text is encoded alone, padded to max_tokens, so that its embedding depends on nothing else;
// the last few are kept, which spares the empty negative prompt and the prompt of a request for
// several images. What is kept depends on the requests alone, so that the ranks of a group stay in
// step. Not thread-safe.
class PromptEncoder {
 public:
  PromptEncoder(std::unique_ptr<Tokenizer> tokenizer, std::unique_ptr<TextEncoder> encoder,
                PartialSum& tensor_axis, int max_tokens, at::Device device);

  struct Texts {
    const std::string& positive;
    const std::string& negative;
  };
  // Of a batch: all negative rows, then all positive ones, or these alone with `positive_only`.
  // Collective of the tensor axis.
  Prompt Encode(const std::vector<Texts>& images, bool positive_only);

 private:
  static constexpr size_t kKept = 8;
  struct Kept {
    std::string text;
    Prompt prompt;  // One row.
  };
  Prompt EncodeOne(const std::string& text);

  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<TextEncoder> encoder_;
  PartialSum& tensor_axis_;
  int max_tokens_;
  at::Device device_;
  std::list<Kept> kept_;  // Used last first.
};

}  // namespace patchflow
