#include "engine/pixels.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace patchflow {
namespace {

constexpr int64_t kBandBytes = int64_t{64} << 20;

}  // namespace

std::optional<Image> ImageFromTensor(const at::Tensor& pixels_3HW) {
  const int64_t height = pixels_3HW.size(1);
  const int64_t width = pixels_3HW.size(2);
  Image image;
  image.width_px = static_cast<int>(width);
  image.height_px = static_cast<int>(height);
  image.pixels.resize(static_cast<size_t>(3 * width * height));
  const at::Tensor host =
      at::from_blob(image.pixels.data(), {height, width, 3}, at::TensorOptions(at::kByte));
  const int64_t rows =
      std::max<int64_t>(1, kBandBytes / static_cast<int64_t>(3 * width * sizeof(float)));
  for (int64_t top = 0; top < height; top += rows) {
    const int64_t count = std::min(rows, height - top);
    at::Tensor band =
        pixels_3HW.narrow(1, top, count)
            .permute({1, 2, 0})
            .to(at::kFloat, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous);
    // Of finite pixels, which are small, so is the sum: one number instead of a mask of the band.
    if (!std::isfinite(band.sum().item<float>())) return std::nullopt;
    band.mul_(0.5).add_(0.5).clamp_(0, 1).mul_(255).round_();
    host.narrow(0, top, count).copy_(band.to(at::kByte));
  }
  return image;
}

}  // namespace patchflow
