// What every communicator over host memory asks of its tensors.
#pragma once

#include <vector>

#include "parallel/communicator.h"
#include "parallel/local_channel.h"

namespace patchflow {

// Checks arguments (c10::Error names what is wrong) and makes one LocalOperation of every call.
class HostCommunicator : public Communicator {
 public:
  Pending AllReduceSum(const Tensor& t) final;
  Pending AllGather(const Tensor& in, const Tensor& out) final;
  Pending AllToAll(const Tensor& in, const Tensor& out) final;
  Pending Send(const Tensor& t, int peer) final;
  Pending Recv(const Tensor& t, int peer) final;
  Pending Grouped(const std::vector<Transfer>& transfers) final;

 private:
  virtual Pending Issue(LocalOperation operation) = 0;
};

}  // namespace patchflow
