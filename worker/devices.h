// Which devices and which arithmetic a worker computes with.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"

namespace patchflow {

struct Devices {
  std::vector<at::Device> of_rank;
  at::ScalarType dtype = at::kFloat;
  std::string name;        // "cpu", or the GPU's own name.
  std::string dtype_name;  // "float32", "bfloat16", "float16"

  bool are_gpus() const { return of_rank.front().is_cuda(); }
};

// `device`: "auto" (GPUs if there are enough for all ranks, or else CPUs), "cpu", "cuda". `dtype`:
// "auto" (bfloat16 on GPUs, float32 on CPUs), "float32", "bfloat16", "float16"; CPUs compute in
// float32 alone. Rank i has GPU first_gpu + i. INVALID_ARGUMENT names the flag; FAILED_PRECONDITION
// for GPUs that are not there, or that are there but too few with "auto".
absl::StatusOr<Devices> ChooseDevices(std::string_view device, std::string_view dtype, int ranks,
                                      int first_gpu = 0);

// Cores that this process may use: its affinity, or less if its control group has a smaller quota
// of CPU time. At least 1.
int UsableCores();

}  // namespace patchflow
