#include "parallel/host_communicator.h"

#include <ATen/ATen.h>

namespace patchflow {
namespace {

using Kind = LocalOperation::Kind;

void CheckTensor(const Tensor& t) {
  TORCH_CHECK(t.defined() && t.is_cpu() && t.is_contiguous(),
              "communicators over host memory take contiguous tensors in host memory");
}

}  // namespace

Pending HostCommunicator::AllReduceSum(const Tensor& t) {
  CheckTensor(t);
  TORCH_CHECK(t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16 ||
                  t.scalar_type() == at::kHalf,
              "all_reduce_sum does not take ", t.scalar_type());
  return Issue({.kind = Kind::kAllReduceSum, .in = t, .out = t});
}

Pending HostCommunicator::AllGather(const Tensor& in, const Tensor& out) {
  CheckTensor(in);
  CheckTensor(out);
  TORCH_CHECK(out.dim() > 0 && out.size(0) == size() && out.sizes().slice(1) == in.sizes() &&
                  out.scalar_type() == in.scalar_type(),
              "all_gather over ", size(), " ranks of ", in.sizes(), " into ", out.sizes());
  return Issue({.kind = Kind::kAllGather, .in = in, .out = out});
}

Pending HostCommunicator::AllToAll(const Tensor& in, const Tensor& out) {
  CheckTensor(in);
  CheckTensor(out);
  TORCH_CHECK(in.dim() > 0 && in.size(0) == size() && out.sizes() == in.sizes() &&
                  out.scalar_type() == in.scalar_type(),
              "all_to_all over ", size(), " ranks of ", in.sizes(), " into ", out.sizes());
  return Issue({.kind = Kind::kAllToAll, .in = in, .out = out});
}

Pending HostCommunicator::Send(const Tensor& t, int peer) {
  return Grouped({{Transfer::Kind::kSend, t, peer}});
}

Pending HostCommunicator::Recv(const Tensor& t, int peer) {
  return Grouped({{Transfer::Kind::kRecv, t, peer}});
}

Pending HostCommunicator::Grouped(const std::vector<Transfer>& transfers) {
  if (transfers.empty()) {
    return {};
  }
  for (const Transfer& transfer : transfers) {
    CheckTensor(transfer.tensor);
    TORCH_CHECK(transfer.peer >= 0 && transfer.peer < size() && transfer.peer != rank(), "rank ",
                rank(), " of ", size(), " can't exchange with rank ", transfer.peer);
  }
  return Issue({.kind = Kind::kTransfers,
                .transfers = transfers,
                .moved = std::vector<bool>(transfers.size())});
}

}  // namespace patchflow
