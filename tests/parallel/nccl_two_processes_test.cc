// A world of two processes, as on two hosts: one makes the id, both join with it, and the image is
// that of two threads of one process.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "parallel/group.h"
#include "parallel/nccl_world.h"
#include "tests/parallel/method_case.h"

namespace patchflow {
namespace {

constexpr const char* kLayouts[] = {
    "tensor=2",
    "ulysses=2",
    "ring=2",
    "guidance=2",
    "distrifusion=2,warmup_steps=1",
    "pipefusion=2,patches=3,warmup_steps=1",
};

void WriteAll(int fd, const void* data, size_t bytes) {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = write(fd, from, bytes);
    TORCH_CHECK(written > 0, "the other process is gone");
    from += written;
    bytes -= static_cast<size_t>(written);
  }
}

void ReadAll(int fd, void* data, size_t bytes) {
  auto* to = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = read(fd, to, bytes);
    TORCH_CHECK(got > 0, "the other process is gone");
    to += got;
    bytes -= static_cast<size_t>(got);
  }
}

// The job of one layout on this process's rank, in a world of its own.
Tensor RunRank(int rank, const std::string& id, const MethodCase& c) {
  const at::Device device(at::kCUDA, static_cast<at::DeviceIndex>(rank));
  const Layout layout = ParseLayout(c.layout).value();
  const Network network = NetworkOf(c);
  const TestJob job = MakeTestJob(network.config, c.job);
  const std::shared_ptr<World> world = std::move(NcclWorld::Join(id, 2, rank, {device}, {})[0]);
  Tensor result;
  RunPlaces(
      {{[&] { return world; }, device}},
      [&](const Rank& here) {
        const c10::cuda::CUDAStreamGuard stream(
            c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index()));
        const GroupRank member(layout, here.world, network.config);
        const EnginePorts ports = member.ports();
        const auto transformer = network.make(ports, device);
        const auto denoiser = ports.make_denoiser(*transformer);
        TestMonitor monitor;
        result = denoiser->Denoise(job.To(device).job(), monitor).cpu();
      },
      absl::Seconds(60));
  return result;
}

// Rank 1: reads an id, sends its latents, for each layout.
[[noreturn]] void BeOtherProcess(int in, int out) {
  try {
    for (const char* layout : kLayouts) {
      std::string id(NcclWorld::kIdBytes, '\0');
      ReadAll(in, id.data(), id.size());
      const Tensor result = RunRank(1, id, {layout});
      WriteAll(out, result.const_data_ptr(), result.nbytes());
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank 1: %s\n", error.what());
    _exit(EXIT_FAILURE);
  }
  _exit(EXIT_SUCCESS);
}

// Forked before this process has touched a GPU.
class NcclTwoProcesses : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    int there[2];
    int back[2];
    ASSERT_EQ(pipe(there), 0);
    ASSERT_EQ(pipe(back), 0);
    other_ = fork();
    ASSERT_GE(other_, 0);
    if (other_ == 0) {
      close(there[1]);
      close(back[0]);
      BeOtherProcess(there[0], back[1]);
    }
    close(there[0]);
    close(back[1]);
    to_other_ = there[1];
    from_other_ = back[0];
  }
  static void TearDownTestSuite() {
    close(to_other_);
    close(from_other_);
  }

  static pid_t other_;
  static int to_other_;
  static int from_other_;
};
pid_t NcclTwoProcesses::other_ = -1;
int NcclTwoProcesses::to_other_ = -1;
int NcclTwoProcesses::from_other_ = -1;

TEST_F(NcclTwoProcesses, MakeTheImageOfTwoThreads) {
  std::vector<Tensor> results;
  for (const char* layout : kLayouts) {
    const std::string id = NcclWorld::MakeId();
    WriteAll(to_other_, id.data(), id.size());
    results.push_back(RunRank(0, id, {layout}));
    const Tensor theirs = at::empty_like(results.back());
    ReadAll(from_other_, theirs.mutable_data_ptr(), theirs.nbytes());
    EXPECT_TRUE(at::equal(theirs, results.back())) << "the processes differ, layout " << layout;
  }
  int state = 0;
  ASSERT_EQ(waitpid(other_, &state, 0), other_);
  EXPECT_TRUE(WIFEXITED(state) && WEXITSTATUS(state) == EXIT_SUCCESS) << state;
  for (size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(RelativeError(results[i], RunCase({kLayouts[i]})), 0) << kLayouts[i];
  }
}

}  // namespace
}  // namespace patchflow
