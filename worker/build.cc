#include "worker/build.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "worker/digest.h"
#ifdef PATCHFLOW_CUDA
#include <cuda_runtime_api.h>
#include <nccl.h>
#endif

namespace patchflow {
namespace {

constexpr char kNone[] = "none";

#ifdef PATCHFLOW_CUDA
std::string CudaVersion() {
  int version = 0;  // 13000
  if (cudaRuntimeGetVersion(&version) != cudaSuccess) return kNone;
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

std::string NcclVersion() {
  int version = 0;  // 22809
  if (ncclGetVersion(&version) != ncclSuccess) return kNone;
  return absl::StrCat(version / 10000, ".", version % 10000 / 100, ".", version % 100);
}
#else
std::string CudaVersion() { return kNone; }
std::string NcclVersion() { return kNone; }
#endif

}  // namespace

worker::v1::WorkerBuild WorkerBuildOf() {
  worker::v1::WorkerBuild build;
  build.set_build_id(BuildId());
  build.set_cuda(CudaVersion());
  build.set_nccl(NcclVersion());
  build.set_torch(PATCHFLOW_WITH_TORCH);
  return build;
}

}  // namespace patchflow
