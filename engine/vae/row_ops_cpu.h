// NormalizeRows and StoreRows over float32 maps in host memory.
#pragma once

#include "engine/vae/row_ops.h"

namespace patchflow {

void NormalizeRowsOnCpu(const GroupNorm& norm, const GroupMoments& moments, Activation activation,
                        const Tensor& x_hWC, const Tensor& out_hWC);
void StoreRowsOnCpu(const RowStore& store, GroupMoments* moments);

}  // namespace patchflow
