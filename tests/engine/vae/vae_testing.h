// Decoders and maps for the tests of the VAE.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "engine/vae/decoder.h"
#include "tests/engine/golden.h"

namespace patchflow {

// Of float32 sums in another order than diffusers': each map passes tens of convolutions.
constexpr double kTolerance = 1e-5;

inline std::filesystem::path VaeDir(const std::string& variant) {
  return variant == "bundled" ? "models/shapes-256/vae" : GoldenDir() / "vae" / variant;
}

inline GoldenFile ExpectedVae() { return GoldenFile("vae/expected.safetensors"); }

inline std::unique_ptr<VaeDecoder> LoadDecoder(const std::string& variant,
                                               const VaeOptions& options = {}) {
  auto decoder = LoadVaeDecoder(VaeDir(variant), options);
  if (!decoder.ok()) {
    throw std::runtime_error(std::string(decoder.status().message()));
  }
  return *std::move(decoder);
}

// [1, C, h, W] -> [h, W, C], contiguous.
inline at::Tensor RowsOf(const at::Tensor& image_1Chw) {
  return image_1Chw.squeeze(0).permute({1, 2, 0}).contiguous();
}

inline at::Tensor ImageOf(const at::Tensor& rows_hWC) {
  return rows_hWC.permute({2, 0, 1}).unsqueeze(0);
}

}  // namespace patchflow
