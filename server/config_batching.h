// The keys `batching` and `batch_size` of a group: whether images share a pass over the network.
#pragma once

#include "server/config_reader.h"

namespace patchflow {

inline constexpr int kMaxBatchRows = 16;  // The engine's kMaxBatchSize.

// Images of a pass; 1 without batching. Notes as faults a size that has none, and batches of
// `members` worker processes that share the ranks: they would have to agree on each batch.
int ReadBatching(MapReader& group, int members);

}  // namespace patchflow
