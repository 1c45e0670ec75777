// Prompts to embeddings: the T5 v1.1 encoder.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/ports.h"
#include "engine/weights/weight_reader.h"

namespace patchflow {

class TextEncoder {
 public:
  virtual ~TextEncoder() = default;
  virtual int64_t width() const = 0;  // D of the output.
  virtual int64_t vocabulary() const = 0;
  virtual int64_t parameter_bytes() const = 0;  // Held here.
  // ids_BL, mask_BL: int64 on the device. Returns last_hidden_state [B, L, D], compute dtype.
  // Collective of the tensor axis that the weights were sharded over.
  virtual Tensor Encode(const Tensor& ids_BL, const Tensor& mask_BL,
                        PartialSum& tensor_axis) const = 0;
};

// INVALID_ARGUMENT for another architecture, and what WeightReader reports.
absl::StatusOr<std::unique_ptr<TextEncoder>> LoadTextEncoder(
    const std::filesystem::path& text_encoder_dir, const ReadOptions& options);

}  // namespace patchflow
