// Descriptions of matrices for Hopper's copy engine.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace patchflow {

// A bfloat16 matrix, row-major and dense, read or written in boxes of box_rows x 64 columns that
// lie in shared memory with rows of 128 bytes, swizzled. Elements outside are zeros, and not
// written. False if the driver refuses (alignment of 16 bytes, columns a multiple of 8).
bool DescribeMatrix(const void* data, int64_t rows, int64_t columns, int box_rows,
                    CUtensorMap* map);

// cuTensorMapEncodeTiled of the driver; nullptr if it has none.
using EncodeTensorMap = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                     const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                     const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                     CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
EncodeTensorMap FindEncodeTensorMap();

}  // namespace patchflow
