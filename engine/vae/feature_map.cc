#include "engine/vae/feature_map.h"

#include <ATen/ATen.h>

namespace patchflow {

Stage::Stage(const Tensor& storage, int64_t h, int64_t width, int64_t pitch)
    : rows_(storage.narrow(0, storage.numel() - h * width * pitch, h * width * pitch)
                .view({h, width * pitch})),
      width_(width) {}

Tensor Stage::Left(int64_t channels) const { return At(0, channels); }

Tensor Stage::Right(int64_t channels) const {
  return At(rows_.size(1) - width_ * channels, channels);
}

Tensor Stage::At(int64_t offset, int64_t channels) const {
  return rows_.narrow(1, offset, width_ * channels).unflatten(1, {width_, channels});
}

}  // namespace patchflow
