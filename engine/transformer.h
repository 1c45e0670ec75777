// A diffusion transformer, written as for one device, in pieces that a pipeline stage may run
// apart.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/ports.h"
#include "engine/weights/weight_reader.h"

namespace patchflow {

// Blocks [begin, end) of the model.
struct BlockRange {
  int begin = 0;
  int end = 0;
  int size() const { return end - begin; }
};

struct TransformerConfig {
  int num_blocks = 0;
  int num_heads = 0;
  int head_size = 0;
  int patch_size = 2;
  int latent_channels =
      4;  // Of the latents; a learned sigma in the output is dropped by Project().
  int caption_width = 4096;    // Width of the text encoder's output.
  int default_size_px = 1024;  // sample_size x 8.
  int max_text_tokens = 120;   // 120 for PixArt-alpha, 300 for PixArt-Sigma.
  int64_t width() const { return int64_t{num_heads} * head_size; }
  int64_t token_width() const { return int64_t{patch_size} * patch_size * latent_channels; }
};

// The latent grid in tokens: h rows of w.
struct TokenGrid {
  int64_t h = 0;
  int64_t w = 0;
  int64_t size() const { return h * w; }
};

struct Prompt {
  Tensor text_BLD;     // Text encoder output, a row per branch (and image) held here.
  Tensor mask_BL;      // int64 or bool, 1 for real tokens.
  int64_t images = 1;  // Row b * images + n is of branch b of image n.
};

// Everything of a request that does not change from step to step, made once by
// Transformer::Prepare. Each model has its own kind. Device memory; immutable.
class Conditioning {
 public:
  virtual ~Conditioning() = default;
  // All that it holds, in an order of its kind. Kernels captured over one conditioning serve any
  // other of the same shapes once its tensors have been copied there.
  virtual std::vector<Tensor> tensors() const = 0;
  // A copy in memory of its own.
  virtual std::unique_ptr<Conditioning> Clone() const = 0;
};

// What a forward pass needs beyond its activations. Built per call; never stored.
struct StepContext {
  const Conditioning& conditioning;
  Tensor step;  // int64 [1] on the device: the row of every per-step table. Read by kernels, never
                // by the host.
  TokenSpan span;  // The tokens in x and h.
  SelfAttention& attention;
  PartialSum& tensor_axis;
};

// Works on patchified latents x_BSC, C = token_width() in the order (row in patch, column in patch,
// channel). Height and width live only in the position table. Immutable; a const method may be
// called by one thread at a time per device. Every method launches a fixed sequence of kernels that
// depends on shapes alone, so that a CUDA graph can capture it.
class Transformer {
 public:
  virtual ~Transformer() = default;
  virtual const TransformerConfig& config() const = 0;
  virtual at::ScalarType dtype() const = 0;     // Compute dtype: of h_BSE, queries, keys, values.
  virtual BlockRange blocks() const = 0;        // The blocks whose weights are held here.
  virtual int64_t parameter_bytes() const = 0;  // Held here.

  // Caption projection, cross-attention keys and values, positions, modulation of all steps.
  //   timesteps: one per step, as the sampler gives them.
  //   token_order: int64 [grid.size()]: the raster index of each token in the denoiser's order;
  //   undefined for raster.
  // Collective of the tensor axis.
  virtual std::unique_ptr<Conditioning> Prepare(const Prompt& prompt, TokenGrid grid,
                                                const std::vector<double>& timesteps,
                                                const Tensor& token_order) const = 0;

  // The branches of an image hold the same latents, and until the text is first attended to the
  // same activations: what is computed for one serves all. Rows of h may share memory.
  virtual Tensor Embed(const Tensor& x_BSC, const StepContext&) const = 0;           // -> h_BSE
  virtual Tensor RunBlocks(BlockRange, Tensor h_BSE, const StepContext&) const = 0;  // -> h_BSE
  virtual Tensor Project(const Tensor& h_BSE, const StepContext&) const = 0;         // -> eps_BSC
};

struct TransformerOptions {
  ReadOptions read = {};
  BlockRange blocks{0, -1};  // end -1: to the last. Other blocks' weights are not read.
};

// The table of models: by `_class_name` of <model>/transformer/config.json. INVALID_ARGUMENT for an
// unknown class or a config that the class can't be built from, naming file and field; what
// WeightReader reports for the weights.
absl::StatusOr<std::unique_ptr<Transformer>> LoadTransformer(
    const std::filesystem::path& transformer_dir, const TransformerOptions& options);
// The config alone: cheap, reads no weights.
absl::StatusOr<TransformerConfig> ReadTransformerConfig(
    const std::filesystem::path& transformer_dir);

// Latents [N, c, H, W] <-> tokens [N, S, C] in raster order.
Tensor Patchify(const Tensor& latents_NcHW, int patch_size);
Tensor Unpatchify(const Tensor& x_NSC, TokenGrid grid, int patch_size);

}  // namespace patchflow
