#include "engine/vae/row_ops.h"

#include <ATen/ATen.h>

#include <limits>

#include "engine/vae/row_ops_cpu.h"
#ifdef PATCHFLOW_CUDA
#include "engine/vae/row_ops_cuda.h"
#endif

namespace patchflow {
namespace {

void CheckRows(const Tensor& rows_hWC, const char* what) {
  TORCH_CHECK(
      rows_hWC.dim() == 3 && rows_hWC.stride(2) == 1 && rows_hWC.stride(1) == rows_hWC.size(2),
      what, ": rows of dense pixels expected, got sizes ", rows_hWC.sizes(), " and strides ",
      rows_hWC.strides());
  CheckIndexable(rows_hWC, what);
}

void CheckStore(const RowStore& store) {
  CheckRows(store.to_hWC, "to_hWC");
  CheckIndexable(store.from, "from");
  const int64_t h = store.to_hWC.size(0);
  const int64_t width = store.to_hWC.size(1);
  const int64_t channels = store.to_hWC.size(2);
  TORCH_CHECK(store.from.is_contiguous() && store.from.dim() == 3,
              "from: contiguous rows expected");
  TORCH_CHECK(store.bias_C.numel() == channels, "bias_C: ", channels, " elements expected, got ",
              store.bias_C.numel());
  if (store.order == PixelOrder::kPhases) {
    TORCH_CHECK(h % 2 == 0 && width % 2 == 0, "to_hWC: even sides expected, got ", h, " x ", width);
    TORCH_CHECK(store.from.sizes() == at::IntArrayRef({h / 2 + 1, width / 2 + 1, 4 * channels}),
                "from: wrong sizes ", store.from.sizes(), " for rows ", store.to_hWC.sizes());
  } else {
    TORCH_CHECK(
        store.from.size(0) == h && store.from.size(1) == width && store.from.size(2) >= channels,
        "from: wrong sizes ", store.from.sizes(), " for rows ", store.to_hWC.sizes());
  }
}

}  // namespace

void CheckIndexable(const Tensor& t, const char* what) {
  TORCH_CHECK(t.numel() <= std::numeric_limits<int32_t>::max(), what, ": ", t.sizes(), " are ",
              t.numel(), " elements, beyond the 2^31 - 1 that kernels can index");
}

GroupMoments NoMoments(int64_t groups, at::Device device) {
  const auto options = at::TensorOptions(at::kFloat).device(device);
  return {0, at::zeros({1, groups}, options), at::zeros({1, groups}, options)};
}

void NormalizeRows(const GroupNorm& norm, const GroupMoments& moments, Activation activation,
                   const Tensor& x_hWC, const Tensor& out_hWC) {
  CheckRows(x_hWC, "x_hWC");
  TORCH_CHECK(out_hWC.is_contiguous() && out_hWC.sizes() == x_hWC.sizes(), "out_hWC: contiguous ",
              x_hWC.sizes(), " expected");
  TORCH_CHECK(moments.count > 0, "moments: of no elements");
#ifdef PATCHFLOW_CUDA
  if (x_hWC.is_cuda()) {
    NormalizeRowsOnCuda(norm, moments, activation, x_hWC, out_hWC);
    return;
  }
#endif
  NormalizeRowsOnCpu(norm, moments, activation, x_hWC, out_hWC);
}

void StoreRows(const RowStore& store, GroupMoments* moments) {
  CheckStore(store);
#ifdef PATCHFLOW_CUDA
  if (store.to_hWC.is_cuda()) {
    StoreRowsOnCuda(store, moments);
    return;
  }
#endif
  StoreRowsOnCpu(store, moments);
}

}  // namespace patchflow
