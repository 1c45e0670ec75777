// AutoencoderKL's decoder: latents to pixels, exact on slabs of rows, in bounded memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/ports.h"
#include "engine/weights/weight_reader.h"

namespace patchflow {

struct VaeConfig {
  int latent_channels = 4;
  int scale_factor = 8;  // Pixels a latent row: 2^(up blocks - 1).
  double scaling_factor = 0.18215;
  double shift_factor = 0;
  bool force_upcast = false;  // float16 overflows in this decoder: it runs in float32 then.
};

// <vae_dir>/config.json. INVALID_ARGUMENT for what this decoder does not do, by file and field;
// NOT_FOUND. Reads no weights.
absl::StatusOr<VaeConfig> ReadVaeConfig(const std::filesystem::path& vae_dir);

// How a decoder reaches the rows that it does not hold.
struct RowPorts {
  NeighbourRows& neighbours;
  Moments& moments;
  SelfAttention& attention;  // Of the middle block: one head, the tokens of the rows held here.
};

struct VaeOptions {
  // float32 on CPUs. float16 turns to float32 where the config has force_upcast.
  ReadOptions read;
  // Upper bound on the temporary memory of one pass of the decoder (memory_plan.h). Maps that need
  // more run in slabs of rows: by default one or two for each of Stable Diffusion's up to 1024 px.
  int64_t workspace_bytes = int64_t{768} << 20;
};

class VaeDecoder {
 public:
  virtual ~VaeDecoder() = default;
  virtual const VaeConfig& config() const = 0;
  virtual const VaeOptions& options() const = 0;
  virtual int64_t parameter_bytes() const = 0;
  // Most memory that Decode takes beyond the weights, output included, for one image of which h
  // latent rows of `width` are held here. Kernels' own workspace comes on top.
  virtual int64_t PeakBytes(int64_t h, int64_t width) const = 0;
  // latents_NchW: rows [first_row, first_row + h) of an image of `image_rows` latent rows, float32,
  // still scaled (the decoder divides by scaling_factor). Returns [N, 3, h * scale_factor, W *
  // scale_factor] in [-1, 1] (not clamped), compute dtype, channels last. Collective of the ranks
  // behind `ports`; `tile_done` is called between tiles of work (may be empty) and may throw
  // Cancelled. Throws c10::Error where workspace_bytes can't hold one row of a map.
  virtual Tensor Decode(const Tensor& latents_NchW, int64_t first_row, int64_t image_rows,
                        RowPorts ports, const std::function<void()>& tile_done) const = 0;
};

// On one device: whole latents [N, c, H, W] -> pixels, as Decode.
Tensor DecodeWhole(const VaeDecoder& decoder, const Tensor& latents_NcHW,
                   const std::function<void()>& tile_done);

// INVALID_ARGUMENT for a config or weights that this decoder is not of, all at once; NOT_FOUND.
absl::StatusOr<std::unique_ptr<VaeDecoder>> LoadVaeDecoder(const std::filesystem::path& vae_dir,
                                                           const VaeOptions& options);

}  // namespace patchflow
