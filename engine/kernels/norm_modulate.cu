#include "engine/kernels/norm_modulate.cuh"

namespace patchflow {
namespace {

template <int kPasses>
__global__ void __launch_bounds__(kLanes* kRowsPerBlock)
    NormModulateKernel(const NormModulateArgs args) {
  const int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.y;
  if (row >= args.rows) {
    return;
  }
  float x[kPasses][kVector];
  NormModulateRow(args, row, x);
  auto* to = static_cast<__nv_bfloat16*>(args.y) + row * args.width;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int column = pass * kColumnsPerPass + static_cast<int>(threadIdx.x) * kVector;
    if (column < args.width) {
      StoreVector(x[pass], to + column);
    }
  }
}

}  // namespace

cudaError_t LaunchNormModulate(const NormModulateArgs& args, cudaStream_t stream) {
  return LaunchForWidth(args, [&](auto passes) {
    NormModulateKernel<decltype(passes)::value>
        <<<BlocksOf(args.rows), dim3(kLanes, kRowsPerBlock), 0, stream>>>(args);
    return cudaGetLastError();
  });
}

}  // namespace patchflow
