#include "engine/kernels/norm_modulate.cuh"

namespace patchflow {
namespace {

constexpr int kRowsOfWarp = 2;
constexpr int kRowsOfBlock = kRowsPerBlock * kRowsOfWarp;

template <int kPasses>
__global__ void __launch_bounds__(kLanes* kRowsPerBlock)
    NormModulateKernel(const NormModulateArgs args) {
  const int64_t first = int64_t{blockIdx.x} * kRowsOfBlock + threadIdx.y;
  float x[kRowsOfWarp][kPasses][kVector];
  NormModulateRows(args, first, kRowsPerBlock, x);
#pragma unroll
  for (int r = 0; r < kRowsOfWarp; ++r) {
    const int64_t row = first + r * kRowsPerBlock;
    auto* to = static_cast<__nv_bfloat16*>(args.y) + row * args.width;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int column = ColumnOf(pass);
      if (row < args.rows && column < args.width) {
        StoreVector(x[r][pass], to + column);
      }
    }
  }
}

}  // namespace

cudaError_t LaunchNormModulate(const NormModulateArgs& args, cudaStream_t stream) {
  return LaunchForWidth(args, [&](auto passes) {
    const auto blocks = static_cast<unsigned>((args.rows + kRowsOfBlock - 1) / kRowsOfBlock);
    NormModulateKernel<decltype(passes)::value>
        <<<blocks, dim3(kLanes, kRowsPerBlock), 0, stream>>>(args);
    return cudaGetLastError();
  });
}

}  // namespace patchflow
