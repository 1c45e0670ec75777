#include "engine/kernels/tensor_map.h"

#include <cuda_runtime_api.h>

#include <array>

namespace patchflow {

EncodeTensorMap FindEncodeTensorMap() {
  static const EncodeTensorMap found = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const bool there =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault,
                                         &result) == cudaSuccess &&
        result == cudaDriverEntryPointSuccess;
    return there ? reinterpret_cast<EncodeTensorMap>(entry) : nullptr;
  }();
  return found;
}

bool DescribeMatrix(const void* data, int64_t rows, int64_t columns, int box_rows,
                    CUtensorMap* map) {
  constexpr cuuint32_t kBoxColumns = 64;
  const EncodeTensorMap encode = FindEncodeTensorMap();
  const std::array<cuuint64_t, 2> extent = {static_cast<cuuint64_t>(columns),
                                            static_cast<cuuint64_t>(rows)};
  const std::array<cuuint64_t, 1> pitch_bytes = {static_cast<cuuint64_t>(columns) * 2};
  const std::array<cuuint32_t, 2> box = {kBoxColumns, static_cast<cuuint32_t>(box_rows)};
  const std::array<cuuint32_t, 2> step = {1, 1};
  return encode != nullptr &&
         encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), extent.data(),
                pitch_bytes.data(), box.data(), step.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace patchflow
