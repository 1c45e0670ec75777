#include <ATen/Context.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/device.h"
#include "parallel/nccl_world.h"
#include "tests/parallel/run_ranks.h"

namespace patchflow {

int MaxRanks() { return std::min(8, CudaDeviceCount()); }
bool RanksAreGpus() { return true; }

at::ScalarType RanksDtype() {
  const char* const name = std::getenv("PATCHFLOW_TEST_DTYPE");
  const std::string_view dtype = name == nullptr ? "bfloat16" : name;
  TORCH_CHECK(dtype == "bfloat16" || dtype == "float32", "PATCHFLOW_TEST_DTYPE: ", dtype);
  return dtype == "float32" ? at::kFloat : at::kBFloat16;
}

// Each rank on a stream of its own, since nothing can be captured on the default one; float32
// products without TF32. Its device has done everything before it counts as finished.
void RunRanks(int ranks, const std::function<void(const Rank&)>& fn, const RunOptions& options) {
  TORCH_CHECK(ranks <= CudaDeviceCount(), ranks, " ranks on ", CudaDeviceCount(), " GPUs");
  at::globalContext().setFloat32MatmulPrecision("highest");
  std::vector<at::Device> devices;
  for (int rank = 0; rank < ranks; ++rank) {
    devices.emplace_back(at::kCUDA, static_cast<at::DeviceIndex>(rank));
  }
  std::vector<std::shared_ptr<NcclWorld>> worlds;
  std::vector<RankPlace> places;
  for (auto& world :
       NcclWorld::Join(NcclWorld::MakeId(), ranks, 0, devices, {.timeout = options.wait_timeout})) {
    worlds.push_back(std::move(world));
    places.push_back({[world = worlds.back()] { return world; }, devices[worlds.size() - 1]});
  }
  RunPlaces(
      places,
      [&fn](const Rank& rank) {
        const c10::cuda::CUDAStream stream =
            c10::cuda::getStreamFromPool(/*isHighPriority=*/false, rank.device.index());
        const c10::cuda::CUDAStreamGuard on_stream(stream);
        fn(rank);
        stream.synchronize();
      },
      options.limit);
  if (const auto unwaited = worlds.front()->Unwaited(); !unwaited.empty()) {
    throw RankFailure(absl::StrCat("never waited for: ", absl::StrJoin(unwaited, "; ")));
  }
}

}  // namespace patchflow
