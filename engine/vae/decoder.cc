#include "engine/vae/decoder.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/vae/decoder_layers.h"
#include "engine/vae/memory_plan.h"
#include "engine/vae/wide_head_attention.h"

namespace patchflow {
namespace {

// A slab that stays in the caches of a CPU is faster than one that does not.
constexpr int64_t kCpuSlabBytes = int64_t{8} << 20;

class SlabDecoder final : public VaeDecoder {
 public:
  SlabDecoder(VaeArchitecture vae, VaeOptions options, DecoderLayers layers)
      : vae_(std::move(vae)), options_(options), layers_(std::move(layers)) {}

  const VaeConfig& config() const override { return vae_.config; }
  const VaeOptions& options() const override { return options_; }
  int64_t parameter_bytes() const override { return layers_.bytes; }

  int64_t PeakBytes(int64_t h, int64_t width) const override { return Plan(h, width).peak_bytes; }

  Tensor Decode(const Tensor& latents_NchW, int64_t first_row, int64_t image_rows, RowPorts ports,
                const std::function<void()>& tile_done) const override;

 private:
  MemoryPlan Plan(int64_t h, int64_t width) const {
    return PlanMemory(layers_, {h, width}, ElementBytes(), SlabBytes(), options_.workspace_bytes);
  }
  int64_t ElementBytes() const {
    return static_cast<int64_t>(c10::elementSize(options_.read.dtype));
  }
  int64_t SlabBytes() const {
    return options_.read.device.is_cpu() ? std::min(options_.workspace_bytes, kCpuSlabBytes)
                                         : options_.workspace_bytes;
  }
  at::TensorOptions Elements() const {
    return at::TensorOptions(options_.read.dtype).device(options_.read.device);
  }
  Tensor Unscaled(const Tensor& latents_chW) const;
  FeatureMap RunMiddle(const Tensor& z_hWc, const MemoryPlan& plan, const DecodeRun& run) const;
  void DecodeImage(const Tensor& latents_chW, const MemoryPlan& plan, const DecodeRun& run,
                   const Tensor& pixels_hWO) const;

  VaeArchitecture vae_;
  VaeOptions options_;
  DecoderLayers layers_;
};

// -> [h, W, c], what conv_in reads.
Tensor SlabDecoder::Unscaled(const Tensor& latents_chW) const {
  Tensor z_hWc = latents_chW.permute({1, 2, 0}).to(at::kFloat) / vae_.config.scaling_factor;
  if (vae_.config.shift_factor != 0) z_hWc = z_hWc + vae_.config.shift_factor;
  if (layers_.post_quant) z_hWc = (*layers_.post_quant)(z_hWc);
  return z_hWc.to(options_.read.dtype).contiguous();
}

FeatureMap SlabDecoder::RunMiddle(const Tensor& z_hWc, const MemoryPlan& plan,
                                  const DecodeRun& run) const {
  const Stage stage(at::empty({plan.middle_elements}, Elements()), z_hWc.size(0), z_hWc.size(1),
                    layers_.middle_first.pitch());
  FeatureMap x = RunConvolutionIn(layers_.conv_in, z_hWc, stage, run);
  x = RunResnet(layers_.middle_first, x, stage, run);
  if (layers_.attention) x = RunAttention(*layers_.attention, x, run);
  return RunResnet(layers_.middle_last, x, stage, run);
}

void SlabDecoder::DecodeImage(const Tensor& latents_chW, const MemoryPlan& plan,
                              const DecodeRun& run, const Tensor& pixels_hWO) const {
  FeatureMap x = RunMiddle(Unscaled(latents_chW), plan, run);
  const Tensor storage = at::empty({plan.storage_elements}, Elements());
  int64_t h = x.rows_hWC.size(0);
  int64_t width = x.rows_hWC.size(1);
  Stage stage(storage, h, width, plan.pitches.front());
  x.rows_hWC = stage.Right(x.rows_hWC.size(2)).copy_(x.rows_hWC);
  for (size_t i = 0; i < layers_.up.size(); ++i) {
    for (const Resnet& resnet : layers_.up[i].resnets) x = RunResnet(resnet, x, stage, run);
    if (layers_.up[i].upsampler) {
      h *= 2;
      width *= 2;
      stage = Stage(storage, h, width, plan.pitches[i + 1]);
      x = RunUpsampler(*layers_.up[i].upsampler, x, stage, run);
    }
  }
  RunConvolutionOut(layers_.norm_out, layers_.conv_out, x, pixels_hWO, run);
}

Tensor SlabDecoder::Decode(const Tensor& latents_NchW, int64_t first_row, int64_t image_rows,
                           RowPorts ports, const std::function<void()>& tile_done) const {
  TORCH_CHECK(latents_NchW.dim() == 4 && latents_NchW.size(1) == vae_.config.latent_channels &&
                  latents_NchW.numel() > 0,
              "latents: [N, ", vae_.config.latent_channels, ", h, W] expected, got ",
              latents_NchW.sizes());
  const int64_t h = latents_NchW.size(2);
  const int64_t width = latents_NchW.size(3);
  TORCH_CHECK(first_row >= 0 && first_row + h <= image_rows, "rows [", first_row, ", ",
              first_row + h, ") of an image of ", image_rows);
  const MemoryPlan plan = Plan(h, width);
  const DecodeRun run{ports,
                      vae_.groups,
                      SlabBytes(),
                      {first_row * width, (first_row + h) * width},
                      tile_done ? tile_done : [] {}};
  const int64_t scale = vae_.config.scale_factor;
  const Tensor pixels_NhWO = at::empty(
      {latents_NchW.size(0), h * scale, width * scale, layers_.conv_out.out()}, Elements());
  for (int64_t n = 0; n < latents_NchW.size(0); ++n) {
    DecodeImage(latents_NchW[n], plan, run, pixels_NhWO[n]);
  }
  return pixels_NhWO.permute({0, 3, 1, 2});
}

absl::Status CheckDtype(const ReadOptions& read) {
  const bool half = read.dtype == at::kHalf || read.dtype == at::kBFloat16;
  if (read.dtype == at::kFloat || (half && read.device.is_cuda())) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("vae: dtype ", c10::toString(read.dtype), " on ", read.device.str(),
                   ": decoded are float32, and bfloat16 and float16 on GPUs"));
}

}  // namespace

Tensor DecodeWhole(const VaeDecoder& decoder, const Tensor& latents_NcHW,
                   const std::function<void()>& tile_done) {
  LocalRows neighbours;
  LocalMoments moments;
  LocalWideHead attention(
      {.workspace_bytes = decoder.options().workspace_bytes, .tile_done = tile_done});
  return decoder.Decode(latents_NcHW, 0, latents_NcHW.size(2),
                        {.neighbours = neighbours, .moments = moments, .attention = attention},
                        tile_done);
}

absl::StatusOr<std::unique_ptr<VaeDecoder>> LoadVaeDecoder(const std::filesystem::path& vae_dir,
                                                           const VaeOptions& options) {
  absl::StatusOr<VaeArchitecture> vae = ReadVaeArchitecture(vae_dir);
  if (!vae.ok()) return vae.status();
  VaeOptions used = options;
  if (vae->config.force_upcast && used.read.dtype == at::kHalf) used.read.dtype = at::kFloat;
  if (absl::Status status = CheckDtype(used.read); !status.ok()) return status;
  absl::StatusOr<DecoderLayers> layers = ReadDecoderLayers(vae_dir, *vae, used.read);
  if (!layers.ok()) return layers.status();
  return std::make_unique<SlabDecoder>(*std::move(vae), used, *std::move(layers));
}

}  // namespace patchflow
