// CUDA kernels of the passes between convolutions, on raw device pointers. Each launches on
// `stream` and returns cudaGetLastError(). Layouts and meanings are those of row_ops.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace patchflow {

enum class Element { kFloat, kHalf, kBFloat16 };

// Rows of a map: elements between rows; pixels are dense.
struct DeviceRows {
  void* data = nullptr;
  int64_t row_stride = 0;
};

struct NormalizeKernel {
  Element element = Element::kFloat;
  DeviceRows x;
  DeviceRows out;
  int rows = 0;  // At most 65535.
  int width = 0;
  int channels = 0;
  int groups = 0;
  const float* gamma = nullptr;
  const float* beta = nullptr;
  const float* mean = nullptr;
  const float* m2 = nullptr;
  float inverse_count = 0;
  float epsilon = 0;
  bool silu = false;
};
cudaError_t Launch(const NormalizeKernel& kernel, cudaStream_t stream);

struct StoreKernel {
  Element element = Element::kFloat;
  const void* from = nullptr;
  int64_t from_row = 0;  // Elements between rows and between pixels.
  int64_t from_pixel = 0;
  DeviceRows to;
  const float* bias = nullptr;
  int rows = 0;  // At most 65535.
  int width = 0;
  int channels = 0;
  bool phases = false;
  bool add = false;
  // Statistics: nullptr, or [rows, segments, groups, 2] (mean and m2 of each segment of a row).
  float* partials = nullptr;
  int segments = 1;
  int groups = 1;
};
// Parts that each row is cut into, so that there are blocks enough to fill the device.
int StoreSegments(int rows, int width);
cudaError_t Launch(const StoreKernel& kernel, cudaStream_t stream);

// Merges partials of a StoreKernel into mean and m2 [groups], which are of `count` elements a
// group.
struct MergeKernel {
  const float* partials = nullptr;
  int rows = 0;
  int segments = 1;
  int groups = 1;
  int width = 0;
  int channels_per_group = 0;
  double count = 0;
  float* mean = nullptr;
  float* m2 = nullptr;
};
cudaError_t Launch(const MergeKernel& kernel, cudaStream_t stream);

}  // namespace patchflow
