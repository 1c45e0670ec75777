#include "engine/vae/memory_plan.h"

#include <algorithm>

namespace patchflow {
namespace {

// Statistics, and latents on their way in.
constexpr int64_t kSmallBytes = int64_t{1} << 20;
constexpr int64_t kLatentCopies = 4;
constexpr int64_t kPitchMultiple = 8;  // Rows stay aligned for vector loads.

// Most temporary memory of the passes over one resolution.
class Passes {
 public:
  Passes(MapSize size, int64_t element_bytes, int64_t slab_bytes)
      : size_(size), element_bytes_(element_bytes), slab_bytes_(slab_bytes) {}

  template <typename Conv>
  void Add(const Conv& conv) {
    Add(CostOf(conv, size_.width, element_bytes_));
  }
  void AddResnet(const Resnet& resnet, int64_t pitch) {
    if (resnet.shortcut) {
      Add(CostWithShortcut(resnet, pitch, size_.width, element_bytes_));
    } else {
      Add(resnet.conv1);
    }
    Add(resnet.conv2);
  }
  int64_t most() const { return most_; }

 private:
  void Add(const SlabCost& cost) { most_ = std::max(most_, PassBytes(size_.h, cost, slab_bytes_)); }

  MapSize size_;
  int64_t element_bytes_;
  int64_t slab_bytes_;
  int64_t most_ = 0;
};

// No storage smaller than the one before it, of a quarter of the pixels.
std::vector<int64_t> Pitches(const std::vector<UpBlock>& blocks) {
  std::vector<int64_t> pitches;
  for (const UpBlock& block : blocks) {
    const int64_t before = pitches.empty() ? 0 : (pitches.back() + 3) / 4;
    const int64_t aligned = (before + kPitchMultiple - 1) / kPitchMultiple * kPitchMultiple;
    pitches.push_back(std::max(block.pitch(), aligned));
  }
  return pitches;
}

}  // namespace

MemoryPlan PlanMemory(const DecoderLayers& decoder, MapSize latents, int64_t element_bytes,
                      int64_t slab_bytes, int64_t workspace_bytes) {
  MemoryPlan plan;
  const int64_t tokens = latents.h * latents.width;
  const int64_t channels = decoder.conv_in.out();
  plan.middle_elements = tokens * decoder.middle_first.pitch();
  Passes middle(latents, element_bytes, slab_bytes);
  middle.Add(decoder.conv_in);
  middle.AddResnet(decoder.middle_first, decoder.middle_first.pitch());
  middle.AddResnet(decoder.middle_last, decoder.middle_last.pitch());
  // Queries, keys, values and their source or the result.
  const int64_t attention =
      decoder.attention ? 4 * tokens * channels * element_bytes + workspace_bytes : 0;
  const int64_t middle_bytes = plan.middle_elements * element_bytes;

  int64_t up_slab = 0;
  MapSize size = latents;
  plan.pitches = Pitches(decoder.up);
  for (size_t i = 0; i < decoder.up.size(); ++i) {
    const UpBlock& block = decoder.up[i];
    plan.storage_elements = std::max(plan.storage_elements, size.h * size.width * plan.pitches[i]);
    Passes passes(size, element_bytes, slab_bytes);
    for (const Resnet& resnet : block.resnets) passes.AddResnet(resnet, plan.pitches[i]);
    if (block.upsampler) {
      passes.Add(*block.upsampler);
      size = {2 * size.h, 2 * size.width};
    } else {
      passes.Add(decoder.conv_out);
    }
    up_slab = std::max(up_slab, passes.most());
  }
  const int64_t storage_bytes = plan.storage_elements * element_bytes;
  const int64_t pixels_bytes = size.h * size.width * decoder.conv_out.out() * element_bytes;
  const int64_t latents_bytes =
      kLatentCopies * tokens * decoder.conv_in.in() * static_cast<int64_t>(sizeof(float));
  plan.peak_bytes = pixels_bytes + latents_bytes + kSmallBytes +
                    std::max({middle_bytes + std::max(middle.most(), attention),
                              middle_bytes + storage_bytes, storage_bytes + up_slab});
  return plan;
}

}  // namespace patchflow
