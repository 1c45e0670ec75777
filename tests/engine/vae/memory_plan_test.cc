#include "engine/vae/memory_plan.h"

#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <new>

#include "tests/engine/vae/vae_testing.h"

namespace patchflow {
namespace {

constexpr int64_t kGigabyte = 1'000'000'000;
constexpr int64_t kBytes = 2;  // Of an element in half precision.
const int64_t kWorkspace = VaeOptions{}.workspace_bytes;

// Stable Diffusion's decoder: shapes without memory.
Tensor Shape(at::IntArrayRef sizes) {
  return at::empty(sizes, at::TensorOptions(at::kFloat).device(at::kMeta));
}
Convolution Conv(int64_t in, int64_t out) {
  const int64_t filled_up = (out + 7) / 8 * 8;  // As on GPUs.
  return {Shape({filled_up, in, 3, 3}), Shape({out})};
}
Resnet Block(int64_t in, int64_t out) {
  Resnet resnet{{}, Conv(in, out), {}, Conv(out, out), std::nullopt};
  if (in != out) resnet.shortcut = Projection{Shape({out, in}), Shape({out})};
  return resnet;
}
DecoderLayers StableDiffusion() {
  DecoderLayers decoder;
  decoder.conv_in = Conv(4, 512);
  decoder.middle_first = decoder.middle_last = Block(512, 512);
  decoder.attention.emplace();
  int64_t in = 512;
  for (const int64_t out : {512, 512, 256, 128}) {
    UpBlock block{{Block(in, out), Block(out, out), Block(out, out)}, std::nullopt};
    if (out != 128) block.upsampler = PhaseConvolution{Shape({4 * out, out, 2, 2}), Shape({out})};
    decoder.up.push_back(block);
    in = out;
  }
  decoder.conv_out = Conv(128, 3);
  return decoder;
}
MemoryPlan PlanAt(int64_t px, int64_t rows_px) {
  return PlanMemory(StableDiffusion(), {rows_px / 8, px / 8}, kBytes, kWorkspace, kWorkspace);
}

TEST(MemoryPlanTest, NeedsLittleBeyondTheLargestMap) {
  for (const int64_t px : {1024, 2048, 4096, 8192}) {
    const MemoryPlan plan = PlanAt(px, px);
    const int64_t largest_map_bytes = px * px * 256 * kBytes;
    const int64_t pixels_bytes = px * px * 3 * kBytes;
    EXPECT_EQ(plan.storage_elements * kBytes, largest_map_bytes) << px;
    const int64_t beside_bytes = std::max(kWorkspace, plan.middle_elements * kBytes);
    EXPECT_LE(plan.peak_bytes, largest_map_bytes + pixels_bytes + beside_bytes + 100'000'000) << px;
  }
  EXPECT_LT(PlanAt(4096, 4096).peak_bytes, 10 * kGigabyte);
  EXPECT_LT(PlanAt(8192, 8192).peak_bytes, 37 * kGigabyte);
}

TEST(MemoryPlanTest, SharesOfAnImageAddUp) {
  const int64_t whole = PlanAt(8192, 8192).peak_bytes;
  for (const int64_t ranks : {2, 4, 8}) {
    const int64_t share = PlanAt(8192, 8192 / ranks).peak_bytes;
    EXPECT_LT(share, whole / ranks + kWorkspace + 100'000'000) << ranks;
  }
}

TEST(SlabRowsTest, KeepEveryTensorIndexable) {
  constexpr int64_t kUnbounded = std::numeric_limits<int64_t>::max() / 4;
  const DecoderLayers decoder = StableDiffusion();
  int64_t least_slabs = std::numeric_limits<int64_t>::max();
  for (int64_t width = 1024; width <= 65536; width *= 2) {
    const SlabCost cost = CostOf(decoder.up.back().resnets.front().conv1, width, kBytes);
    const int64_t rows = SlabRows(width, cost, kUnbounded);
    EXPECT_LE((rows + 2) * width * 256, std::numeric_limits<int32_t>::max()) << width;
    least_slabs = (width + rows - 1) / rows;
  }
  EXPECT_GT(least_slabs, 500);  // The limit was met.
}

TEST(SlabRowsTest, FillTheWorkspaceEvenly) {
  const SlabCost cost{.row_bytes = 100, .fixed_bytes = 50, .row_elements = 10};
  EXPECT_EQ(SlabRows(7, cost, 750), 7);
  EXPECT_EQ(SlabRows(8, cost, 750), 4);
  EXPECT_EQ(SlabRows(15, cost, 750), 5);
  EXPECT_EQ(PassBytes(15, cost, 750), 550);
  EXPECT_THROW(SlabRows(1, cost, 149), c10::Error);
}

// Counts the bytes of tensors on CPUs, to the end of the process: what it gave may live as long.
class CountedMemory final : public c10::Allocator {
 public:
  static CountedMemory& Install() {
    static CountedMemory& memory = *new CountedMemory;
    return memory;
  }

  void ResetPeak() { peak_ = used_.load(); }
  int64_t used_bytes() const { return used_; }
  int64_t peak_bytes() const { return peak_; }

  c10::DataPtr allocate(size_t bytes) override {
    const size_t whole_bytes = (bytes + 2 * kHeaderBytes - 1) / kHeaderBytes * kHeaderBytes;
    auto* block = static_cast<std::byte*>(std::aligned_alloc(kHeaderBytes, whole_bytes));
    if (block == nullptr) throw std::bad_alloc();
    *reinterpret_cast<int64_t*>(block) = static_cast<int64_t>(bytes);
    const int64_t used = used_ += static_cast<int64_t>(bytes);
    int64_t peak = peak_;
    while (used > peak && !peak_.compare_exchange_weak(peak, used)) {
    }
    void* const given = block + kHeaderBytes;
    return {given, given, &Free, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &Free; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static constexpr uint8_t kPriority = 200;
  static constexpr size_t kHeaderBytes = 64;  // Before what is given: its size.

  CountedMemory() { c10::SetCPUAllocator(this, kPriority); }
  static void Free(void* given) {
    if (given == nullptr) return;
    std::byte* const block = static_cast<std::byte*>(given) - kHeaderBytes;
    Install().used_ -= *reinterpret_cast<int64_t*>(block);
    std::free(block);
  }

  std::atomic<int64_t> used_ = 0;
  std::atomic<int64_t> peak_ = 0;
};

struct Decoded {
  int64_t peak_bytes = 0;
  int64_t planned_bytes = 0;
};
Decoded Measure(const VaeDecoder& decoder, int64_t rows, int64_t columns) {
  const Tensor latents = at::randn({1, decoder.config().latent_channels, rows, columns});
  CountedMemory& memory = CountedMemory::Install();
  memory.ResetPeak();
  const int64_t before = memory.used_bytes();
  DecodeWhole(decoder, latents, {});
  return {memory.peak_bytes() - before, decoder.PeakBytes(rows, columns)};
}

// What the plan leaves out: the workspace of convolutions.
constexpr int64_t kUnplanned = 4'000'000;

TEST(DecodeMemoryTest, IsAsPlanned) {
  VaeOptions options;
  options.workspace_bytes = 1'000'000;
  for (const char* variant : {"tiny", "narrowing", "widening", "flux"}) {
    const auto decoder = LoadDecoder(variant, options);
    for (const int64_t rows : {8, 40, 96}) {
      const Decoded found = Measure(*decoder, rows, 40);
      EXPECT_LE(found.peak_bytes, found.planned_bytes + kUnplanned) << variant << " " << rows;
    }
  }
}

// From one height to four times it, memory grows by the storage and the pixels alone.
TEST(DecodeMemoryTest, GrowsByTheLargestMapAlone) {
  VaeOptions options;
  options.workspace_bytes = 1'000'000;
  const auto decoder = LoadDecoder("tiny", options);
  constexpr int64_t kColumns = 64;
  const int64_t rows_added = 192 - 48;
  const int64_t pixels_added = rows_added * kColumns * 4 * 4;
  const int64_t map_bytes = pixels_added * 16 * 4;  // 16 channels come into the last block.
  const int64_t grown =
      Measure(*decoder, 192, kColumns).peak_bytes - Measure(*decoder, 48, kColumns).peak_bytes;
  EXPECT_LT(grown, (map_bytes + pixels_added * 3 * 4) * 11 / 10);
  EXPECT_GT(grown, map_bytes);
}

}  // namespace
}  // namespace patchflow
