#include "engine/vae/row_ops_cuda.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include "engine/vae/row_kernels.h"

namespace patchflow {
namespace {

constexpr int64_t kMostRows = 65535;
constexpr int64_t kMostChannels = 1024;

Element ElementOf(const Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat:
      return Element::kFloat;
    case at::kHalf:
      return Element::kHalf;
    case at::kBFloat16:
      return Element::kBFloat16;
    default:
      TORCH_CHECK(false, "dtype ", t.scalar_type(),
                  " of a feature map: float32, float16 or bfloat16 expected");
  }
}

DeviceRows RowsOf(const Tensor& rows_hWC) { return {rows_hWC.data_ptr(), rows_hWC.stride(0)}; }

void CheckLimits(const Tensor& rows_hWC) {
  TORCH_CHECK(rows_hWC.size(0) <= kMostRows, rows_hWC.size(0), " rows of a slab: at most ",
              kMostRows);
  TORCH_CHECK(rows_hWC.size(2) <= kMostChannels, rows_hWC.size(2), " channels: at most ",
              kMostChannels);
}

}  // namespace

void NormalizeRowsOnCuda(const GroupNorm& norm, const GroupMoments& moments, Activation activation,
                         const Tensor& x_hWC, const Tensor& out_hWC) {
  CheckLimits(x_hWC);
  NormalizeKernel kernel;
  kernel.element = ElementOf(x_hWC);
  kernel.x = RowsOf(x_hWC);
  kernel.out = RowsOf(out_hWC);
  kernel.rows = static_cast<int>(x_hWC.size(0));
  kernel.width = static_cast<int>(x_hWC.size(1));
  kernel.channels = static_cast<int>(x_hWC.size(2));
  kernel.groups = static_cast<int>(norm.groups);
  kernel.gamma = norm.gamma_C.const_data_ptr<float>();
  kernel.beta = norm.beta_C.const_data_ptr<float>();
  kernel.mean = moments.mean_BG.const_data_ptr<float>();
  kernel.m2 = moments.m2_BG.const_data_ptr<float>();
  kernel.inverse_count = static_cast<float>(1.0 / moments.count);
  kernel.epsilon = static_cast<float>(kGroupNormEpsilon);
  kernel.silu = activation == Activation::kSilu;
  C10_CUDA_CHECK(Launch(kernel, at::cuda::getCurrentCUDAStream()));
}

void StoreRowsOnCuda(const RowStore& store, GroupMoments* moments) {
  CheckLimits(store.to_hWC);
  StoreKernel kernel;
  kernel.element = ElementOf(store.to_hWC);
  TORCH_CHECK(store.from.scalar_type() == store.to_hWC.scalar_type(), "from: dtype ",
              store.from.scalar_type(), " stored as ", store.to_hWC.scalar_type());
  kernel.from = store.from.const_data_ptr();
  kernel.from_row = store.from.stride(0);
  kernel.from_pixel = store.from.stride(1);
  kernel.to = RowsOf(store.to_hWC);
  kernel.bias = store.bias_C.const_data_ptr<float>();
  kernel.rows = static_cast<int>(store.to_hWC.size(0));
  kernel.width = static_cast<int>(store.to_hWC.size(1));
  kernel.channels = static_cast<int>(store.to_hWC.size(2));
  kernel.phases = store.order == PixelOrder::kPhases;
  kernel.add = store.mode == StoreMode::kAdd;
  kernel.segments = StoreSegments(kernel.rows, kernel.width);
  const auto stream = at::cuda::getCurrentCUDAStream();
  if (moments == nullptr) {
    C10_CUDA_CHECK(Launch(kernel, stream));
    return;
  }
  kernel.groups = static_cast<int>(moments->mean_BG.size(1));
  const Tensor partials =
      at::empty({kernel.rows, kernel.segments, kernel.groups, 2}, moments->mean_BG.options());
  kernel.partials = partials.mutable_data_ptr<float>();
  C10_CUDA_CHECK(Launch(kernel, stream));
  MergeKernel merge;
  merge.partials = kernel.partials;
  merge.rows = kernel.rows;
  merge.segments = kernel.segments;
  merge.groups = kernel.groups;
  merge.width = kernel.width;
  merge.channels_per_group = kernel.channels / kernel.groups;
  merge.count = moments->count;
  merge.mean = moments->mean_BG.mutable_data_ptr<float>();
  merge.m2 = moments->m2_BG.mutable_data_ptr<float>();
  C10_CUDA_CHECK(Launch(merge, stream));
  moments->count += static_cast<double>(kernel.rows) * kernel.width * merge.channels_per_group;
}

}  // namespace patchflow
