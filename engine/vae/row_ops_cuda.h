// NormalizeRows and StoreRows over maps in device memory, on the current stream.
#pragma once

#include "engine/vae/row_ops.h"

namespace patchflow {

void NormalizeRowsOnCuda(const GroupNorm& norm, const GroupMoments& moments, Activation activation,
                         const Tensor& x_hWC, const Tensor& out_hWC);
void StoreRowsOnCuda(const RowStore& store, GroupMoments* moments);

}  // namespace patchflow
