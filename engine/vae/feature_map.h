// Feature maps of the decoder, and the storage that they share.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "engine/vae/decoder.h"

namespace patchflow {

// The rows held here, and the statistics of the next norm's groups over the whole image.
struct FeatureMap {
  Tensor rows_hWC;
  GroupMoments moments;
};

// All maps of one resolution share one storage of h rows, each W * pitch elements long. The map
// that a layer reads, or has finished, is at the right end of every row; the one inside a residual
// block at the left. A finished row may take the place of a wider one above which nothing is still
// to be read: a residual block that narrows its channels needs no storage beyond its input's.
class Stage {
 public:
  // The last h * width * pitch elements of `storage`, which is dense and one-dimensional.
  Stage(const Tensor& storage, int64_t h, int64_t width, int64_t pitch);

  int64_t h() const { return rows_.size(0); }
  int64_t width() const { return width_; }
  int64_t pitch() const { return rows_.size(1) / width_; }
  Tensor Left(int64_t channels) const;   // [h, W, channels]
  Tensor Right(int64_t channels) const;  // [h, W, channels]

 private:
  Tensor At(int64_t offset, int64_t channels) const;
  Tensor rows_;  // [h, W * pitch]
  int64_t width_;
};

// What every pass of one decode needs.
struct DecodeRun {
  RowPorts ports;
  int64_t groups;  // Of every norm.
  int64_t slab_bytes;
  TokenSpan tokens;  // Of the latent rows held here.
  std::function<void()> tile_done;
};

}  // namespace patchflow
