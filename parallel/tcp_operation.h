// An operation on its way between a guest and the host of its world.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "parallel/local_channel.h"

namespace patchflow {

// Numbers as the text of a frame, and back.
std::string PackNumbers(const std::vector<int64_t>& numbers);
std::vector<int64_t> UnpackNumbers(const std::string& text);

// What the host needs to know of an operation, without its tensors' contents: kind, type and
// shape, or each transfer's direction, peer and size.
std::string DescribeOperation(const LocalOperation& operation);

// What travels to the host, in this order, and what comes back.
std::vector<Tensor> InputsOf(const LocalOperation& operation);
std::vector<Tensor> OutputsOf(const LocalOperation& operation);

// The operation of rank `rank` out of `size` that was described, on tensors of its own. Throws
// CommunicatorError for what no operation says.
LocalOperation OperationOf(const std::string& description, int rank, int size);

}  // namespace patchflow
