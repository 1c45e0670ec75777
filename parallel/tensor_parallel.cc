#include "parallel/tensor_parallel.h"

#include <ATen/ATen.h>

namespace patchflow {

Tensor AllReducePartialSum::Complete(Tensor partial) {
  partial = partial.contiguous();
  axis_.AllReduceSum(partial).Wait();
  return partial;
}

}  // namespace patchflow
