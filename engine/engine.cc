#include "engine/engine.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/device.h"
#include "engine/model_folder.h"
#include "engine/pixels.h"
#include "engine/prompt_encoder.h"
#include "engine/status_of.h"
#include "engine/step_clock.h"
#include "engine/stream_waits.h"
#include "engine/text/tokenizer.h"

namespace patchflow {
namespace {

// A component is loaded by the line that names it; a failing one does not keep the others from
// being looked at.
class Loader {
 public:
  explicit Loader(const EngineOptions& options) : options_(options) {}

  template <typename T>
  std::unique_ptr<T> Load(const char* name,
                          const std::function<absl::StatusOr<std::unique_ptr<T>>()>& load) {
    const absl::Time start = absl::Now();
    absl::StatusOr<std::unique_ptr<T>> component =
        StatusOrOfThrowing<std::unique_ptr<T>>([&] { return load(); });
    if (!component.ok()) {
      errors_.push_back(component.status());
      return nullptr;
    }
    WaitForDevice(options_.device);
    components_.push_back({.name = name, .time = absl::Now() - start});
    if constexpr (requires { (*component)->parameter_bytes(); }) {
      components_.back().parameter_bytes = (*component)->parameter_bytes();
    }
    return *std::move(component);
  }

  void Fail(absl::Status status) { errors_.push_back(std::move(status)); }
  absl::Status Finish() const { return Together(errors_); }
  std::vector<LoadedComponent> components() const { return components_; }

 private:
  const EngineOptions& options_;
  std::vector<absl::Status> errors_;
  std::vector<LoadedComponent> components_;
};

// Seconds of the phase that ends when the device has done what was enqueued.
class Stopwatch {
 public:
  explicit Stopwatch(at::Device device) : device_(device) {}
  absl::Duration Lap() {
    WaitForDevice(device_);
    const absl::Time now = absl::Now();
    return now - std::exchange(start_, now);
  }

 private:
  at::Device device_;
  absl::Time start_ = absl::Now();
};

class OneRankEngine final : public Engine {
 public:
  struct Parts {
    EngineOptions options;
    EnginePorts ports;
    ModelDescription description;
    std::vector<LoadedComponent> components;
    SamplerConfig sampler;
    std::shared_ptr<const DeviceThread::Stream> stream;
    std::unique_ptr<PromptEncoder> prompts;
    std::unique_ptr<Transformer> transformer;
    std::unique_ptr<VaeDecoder> vae;
    std::unique_ptr<Denoiser> denoiser;
    std::unique_ptr<PartialSum> local_sum;
  };
  explicit OneRankEngine(Parts parts) : parts_(std::move(parts)) {}

  const ModelDescription& description() const override { return parts_.description; }
  const std::vector<LoadedComponent>& components() const override { return parts_.components; }

  absl::StatusOr<Generated> Generate(const ImageRequest& request,
                                     RequestMonitor& monitor) override {
    absl::StatusOr<Sampler> sampler = CheckRequest(request);
    if (!sampler.ok()) {
      return WithEngineReason(sampler.status(), "INVALID_REQUEST");
    }
    return StatusOrOfThrowing<Generated>([&]() -> absl::StatusOr<Generated> {
      const DeviceThread thread(parts_.stream);
      return Make(request, sampler->To(parts_.options.device), monitor);
    });
  }

 private:
  absl::StatusOr<Sampler> CheckRequest(const ImageRequest& request) const;
  absl::StatusOr<Generated> Make(const ImageRequest& request, const Sampler& sampler,
                                 RequestMonitor& monitor);
  Prompt EncodePrompts(const ImageRequest& request);
  // A row for each of the batch.
  Tensor Noise(const ImageRequest& request) const;
  Tensor NoiseOf(uint64_t seed, const ImageRequest& request) const;
  // All images, into `result`, whose faults are those of the latents, one for each.
  void Decode(const Tensor& latents, int num_steps, RequestMonitor& monitor,
              Generated& result) const;
  std::unique_ptr<LatentsView> ViewOf(const ImageRequest& request, TokenGrid grid);
  std::unique_ptr<LatentsView> ViewOfOne(const PreviewRequest& request, TokenGrid grid);

  Parts parts_;
  std::shared_ptr<const LatentMap> latent_map_;  // From the first preview on.
};

absl::Status CheckSide(const char* field, int value_px, int multiple_px) {
  if (value_px >= multiple_px && value_px <= kMaxSizePx && value_px % multiple_px == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value_px, " is not a multiple of ",
                                                 multiple_px, " in ", multiple_px, " .. ",
                                                 kMaxSizePx));
}

absl::Status CheckPreview(const PreviewRequest& preview) {
  if (preview.every_steps >= 0 && preview.max_edge_px >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("preview: every_steps ", preview.every_steps,
                                                 " and max_edge_px ", preview.max_edge_px,
                                                 " are not both 0 or more"));
}

absl::Status CheckBatch(const ImageRequest& request) {
  const auto images = static_cast<int>(request.beside.size()) + 1;
  if (request.batch_size >= images && request.batch_size <= kMaxBatchSize) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("batch_size: ", request.batch_size,
                                                 " is not in 1 .. ", kMaxBatchSize,
                                                 ", or below the number of images, ", images));
}

absl::StatusOr<Sampler> OneRankEngine::CheckRequest(const ImageRequest& request) const {
  const int multiple_px = parts_.description.size_multiple_px();
  std::vector<absl::Status> found = {CheckSide("width_px", request.width_px, multiple_px),
                                     CheckSide("height_px", request.height_px, multiple_px)};
  if (!(request.guidance_scale >= 1 && request.guidance_scale <= kMaxGuidanceScale)) {
    found.push_back(absl::InvalidArgumentError(absl::StrCat(
        "guidance_scale: ", request.guidance_scale, " is not in 1 .. ", kMaxGuidanceScale)));
  }
  found.push_back(CheckPreview(request.preview));
  for (const BatchedImage& image : request.beside) found.push_back(CheckPreview(image.preview));
  found.push_back(CheckBatch(request));
  absl::StatusOr<Sampler> sampler = Sampler::Make(request.scheduler, parts_.sampler, request.steps);
  found.push_back(sampler.status());
  if (const absl::Status status = Together(found); !status.ok()) return status;
  return sampler;
}

Prompt OneRankEngine::EncodePrompts(const ImageRequest& request) {
  std::vector<PromptEncoder::Texts> texts = {{request.prompt, request.negative_prompt}};
  for (const BatchedImage& image : request.beside) {
    texts.push_back({image.prompt, image.negative_prompt});
  }
  return parts_.prompts->Encode(texts, static_cast<size_t>(request.batch_size),
                                /*positive_only=*/request.guidance_scale == 1);
}

Tensor OneRankEngine::Noise(const ImageRequest& request) const {
  if (request.batch_size == 1) return NoiseOf(request.seed, request);
  std::vector<Tensor> rows = {NoiseOf(request.seed, request)};
  for (const BatchedImage& image : request.beside) rows.push_back(NoiseOf(image.seed, request));
  rows.resize(static_cast<size_t>(request.batch_size), rows.front());
  return at::cat(rows);
}

Tensor OneRankEngine::NoiseOf(uint64_t seed, const ImageRequest& request) const {
  const int scale = parts_.description.vae.scale_factor;
  return at::randn({1, parts_.description.transformer.latent_channels, request.height_px / scale,
                    request.width_px / scale},
                   at::detail::createCPUGenerator(seed), at::TensorOptions(at::kFloat))
      .to(parts_.options.device);
}

absl::Status NotFinite(const char* what) {
  return WithEngineReason(absl::InternalError(what), "NON_FINITE_OUTPUT");
}

// By row.
std::vector<absl::Status> FaultsOf(const Tensor& latents_NCHW) {
  const Tensor finite_N = at::isfinite(latents_NCHW).flatten(1).all(1).cpu();
  std::vector<absl::Status> faults;
  for (int64_t n = 0; n < finite_N.size(0); ++n) {
    faults.push_back(finite_N[n].item<bool>() ? absl::OkStatus()
                                              : NotFinite("the final latents are not finite"));
  }
  return faults;
}

bool AllAreOk(const std::vector<absl::Status>& all) {
  return std::all_of(all.begin(), all.end(),
                     [](const absl::Status& status) { return status.ok(); });
}

bool NoneIsOk(const std::vector<absl::Status>& all) {
  return std::none_of(all.begin(), all.end(),
                      [](const absl::Status& status) { return status.ok(); });
}

void OneRankEngine::Decode(const Tensor& latents, int num_steps, RequestMonitor& monitor,
                           Generated& result) const {
  int tile = num_steps;
  StepFence fence(parts_.options.device);
  const auto tile_done = [&] {
    fence.Mark(tile);
    fence.Wait(++tile);  // For the tile before the last one: the device always has work.
    if (!monitor.Continue(tile)) throw Cancelled();
  };
  // One whose latents are not finite, too: all ranks do the same, whatever they found.
  for (size_t n = 0; n < result.faults.size(); ++n) {
    const Tensor own = latents.narrow(0, static_cast<int64_t>(n), 1);
    const Tensor pixels = parts_.ports.decode ? parts_.ports.decode(*parts_.vae, own, tile_done)
                                              : DecodeWhole(*parts_.vae, own, tile_done);
    if (!pixels.defined()) continue;
    std::optional<Image> image = ImageFromTensor(pixels.squeeze(0));
    absl::Status& fault = result.faults[n];
    if (fault.ok() && !image.has_value()) fault = NotFinite("the pixels are not finite");
    if (!fault.ok()) image = Image();
    if (n == 0) {
      result.image = *std::move(image);
    } else {
      result.beside.push_back(*std::move(image));
    }
  }
}

std::unique_ptr<LatentsView> OneRankEngine::ViewOf(const ImageRequest& request, TokenGrid grid) {
  std::unique_ptr<LatentsView> first = ViewOfOne(request.preview, grid);
  if (request.beside.empty() && request.batch_size == 1) return first;
  std::vector<std::unique_ptr<LatentsView>> views;
  views.push_back(std::move(first));
  for (const BatchedImage& image : request.beside) {
    views.push_back(ViewOfOne(image.preview, grid));
  }
  const bool nobody =
      std::all_of(views.begin(), views.end(), [](const auto& view) { return view == nullptr; });
  return nobody ? nullptr : std::make_unique<BatchView>(std::move(views));
}

std::unique_ptr<LatentsView> OneRankEngine::ViewOfOne(const PreviewRequest& request,
                                                      TokenGrid grid) {
  if (request.every_steps == 0) return nullptr;
  if (parts_.ports.shows_previews && latent_map_ == nullptr) {
    latent_map_ = std::make_shared<const LatentMap>(FitLatentMap(*parts_.vae));
  }
  return std::make_unique<PreviewView>(request, latent_map_, grid,
                                       parts_.description.transformer.patch_size);
}

absl::StatusOr<Generated> OneRankEngine::Make(const ImageRequest& request, const Sampler& sampler,
                                              RequestMonitor& monitor) {
  const at::Device device = parts_.options.device;
  const int patch_size = parts_.description.transformer.patch_size;
  Generated result;
  ResetPeakMemory(device);
  Stopwatch watch(device);

  monitor.Enter(Phase::kText);
  const Prompt prompts = EncodePrompts(request);
  result.times.text = watch.Lap();

  monitor.Enter(Phase::kDenoise);
  const Tensor noise = Noise(request);
  const TokenGrid grid{.h = noise.size(2) / patch_size, .w = noise.size(3) / patch_size};
  const std::unique_ptr<LatentsView> view = ViewOf(request, grid);
  StepClock clock(device, sampler.num_steps(), monitor);
  const Tensor latents =
      Unpatchify(parts_.denoiser->Denoise({.noise_NSC = Patchify(noise, patch_size),
                                           .grid = grid,
                                           .prompts = prompts,
                                           .guidance_scale = request.guidance_scale,
                                           .sampler = sampler,
                                           .view = view.get()},
                                          clock),
                 grid, patch_size);
  result.faults = FaultsOf(latents.narrow(0, 0, static_cast<int64_t>(request.beside.size()) + 1));
  result.times.denoise = watch.Lap();
  if (NoneIsOk(result.faults)) return result.faults.front();
  result.step_times = clock.Times();

  monitor.Enter(Phase::kDecode);
  Decode(latents, sampler.num_steps(), monitor, result);
  if (NoneIsOk(result.faults)) return result.faults.front();
  if (AllAreOk(result.faults)) result.faults.clear();
  result.times.decode = watch.Lap();
  TellWaits();
  result.peak_memory_bytes = MemoryOf(device).peak_bytes;
  return result;
}

absl::Status CheckFit(const ModelDescription& description, const TextEncoder* encoder) {
  const int width = description.transformer.caption_width;
  if (encoder == nullptr || encoder->width() == width) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("transformer/config.json: caption_channels is ",
                                                 width, ", but the text encoder's d_model is ",
                                                 encoder->width()));
}

absl::StatusOr<std::unique_ptr<Engine>> LoadOneRank(const EngineOptions& options,
                                                    EnginePorts ports) {
  absl::StatusOr<ModelDescription> description = DescribeModel(options.model_dir);
  if (absl::IsNotFound(description.status())) return description.status();
  Loader loader(options);
  if (!description.ok()) loader.Fail(description.status());

  OneRankEngine::Parts parts;
  parts.options = options;
  parts.ports = std::move(ports);
  parts.stream = DeviceThread::MakeStream(options.device);
  const DeviceThread thread(parts.stream);
  // What of a network is float8 is the transformer's to say.
  const bool float8 = options.dtype == at::kFloat8_e4m3fn;
  ReadOptions read{
      .device = options.device, .dtype = float8 ? at::kBFloat16 : options.dtype, .shard = {}};
  const std::filesystem::path& dir = options.model_dir;
  read.shard = parts.ports.text_shard;
  auto encoder = loader.Load<TextEncoder>(
      "text_encoder", [&] { return LoadTextEncoder(dir / "text_encoder", read); });
  parts.transformer = loader.Load<Transformer>("transformer", [&] {
    return LoadTransformer(dir / "transformer", {.read = {.device = options.device,
                                                          .dtype = options.dtype,
                                                          .shard = parts.ports.transformer_shard},
                                                 .blocks = parts.ports.blocks});
  });
  read.shard = {};
  parts.vae =
      loader.Load<VaeDecoder>("vae", [&] { return LoadVaeDecoder(dir / "vae", {.read = read}); });
  auto tokenizer =
      loader.Load<Tokenizer>("tokenizer", [&] { return LoadTokenizer(dir / "tokenizer"); });
  if (description.ok()) loader.Fail(CheckFit(*description, encoder.get()));
  const absl::StatusOr<SamplerConfig> sampler = ReadSamplerConfig(dir / "scheduler");
  loader.Fail(sampler.status());
  if (const absl::Status status = loader.Finish(); !status.ok()) return status;

  parts.description = *std::move(description);
  parts.sampler = *sampler;
  parts.components = loader.components();
  parts.local_sum = std::make_unique<LocalSum>();
  parts.prompts = std::make_unique<PromptEncoder>(
      std::move(tokenizer), std::move(encoder),
      parts.ports.text_sum != nullptr ? *parts.ports.text_sum : *parts.local_sum,
      parts.description.transformer.max_text_tokens, options.device,
      parts.ports.text_sum != nullptr ? nullptr : options.text_hints, options.batch_size);
  parts.denoiser = parts.ports.make_denoiser ? parts.ports.make_denoiser(*parts.transformer)
                                             : MakeSerialDenoiser(*parts.transformer);
  return std::make_unique<OneRankEngine>(std::move(parts));
}

}  // namespace

const char* NameOf(Phase phase) {
  switch (phase) {
    case Phase::kText:
      return "text";
    case Phase::kDenoise:
      return "denoise";
    case Phase::kDecode:
      return "decode";
  }
  return "unknown";
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Load(const EngineOptions& options,
                                                     EnginePorts ports) {
  return StatusOrOfThrowing<std::unique_ptr<Engine>>(
      [&] { return LoadOneRank(options, std::move(ports)); });
}

}  // namespace patchflow
