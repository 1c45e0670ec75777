#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/cuda/CUDAFunctions.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "engine/device.h"
#include "engine/step_graph.h"

namespace patchflow {
namespace {

const at::Device kGpu(at::kCUDA, 0);
constexpr int64_t kGibibyte = int64_t{1} << 30;

// The first of this file: contexts stay.
TEST(DeviceMemoryCudaTest, AskingMakesNoContext) {
  EXPECT_EQ(DeviceUsedBytes(kGpu), 0);
  at::globalContext().lazyInitDevice(at::kCUDA);
  if (c10::cuda::hasPrimaryContext(0)) {
    GTEST_FAIL() << "another test came first, or LibTorch makes a context when it is initialized";
  }
  EXPECT_EQ(DeviceUsedBytes(kGpu), 0);
  EXPECT_FALSE(c10::cuda::hasPrimaryContext(0));
}

TEST(DeviceMemoryCudaTest, TheDevicesUseHoldsMoreThanTensors) {
  const at::Tensor tensor = at::empty({kGibibyte}, at::device(kGpu).dtype(at::kByte));
  const DeviceMemory memory = MemoryOf(kGpu);
  EXPECT_GE(memory.used_bytes, kGibibyte);
  EXPECT_GE(memory.reserved_bytes, memory.used_bytes);
  EXPECT_GT(DeviceUsedBytes(kGpu), memory.reserved_bytes) << "CUDA's context is in it";
  EXPECT_LE(DeviceUsedBytes(kGpu), TotalMemoryBytes(kGpu));
}

TEST(DeviceMemoryCudaTest, FreedTensorsStayReservedAndInUse) {
  { const at::Tensor tensor = at::empty({kGibibyte}, at::device(kGpu).dtype(at::kByte)); }
  const DeviceMemory memory = MemoryOf(kGpu);
  EXPECT_GE(memory.reserved_bytes - memory.used_bytes, kGibibyte);
  EXPECT_GT(DeviceUsedBytes(kGpu), memory.reserved_bytes);
}

TEST(DeviceMemoryCudaTest, AskingBreaksNoCapture) {
  const DeviceThread on_stream(DeviceThread::MakeStream(kGpu));
  at::Tensor sum = at::zeros({1}, at::device(kGpu).dtype(at::kFloat));
  std::atomic<bool> over = false;
  std::atomic<int> asked = 0;
  std::thread other([&] {
    while (!over) asked += DeviceUsedBytes(kGpu) > 0 ? 1 : 0;
  });
  constexpr int kGraphs = 50;
  for (int i = 0; i < kGraphs; ++i) {
    GraphPool pool;
    StepGraph graph(pool);
    for (int run = 0; run < 3; ++run)
      graph.Run([&] { sum.add_(1); });  // As it is, captured, again.
  }
  over = true;
  other.join();
  WaitForDevice(kGpu);
  EXPECT_GT(asked.load(), 0);
  EXPECT_EQ(sum.item<float>(), 3 * kGraphs);
}

}  // namespace
}  // namespace patchflow
