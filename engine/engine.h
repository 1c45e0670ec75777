// One rank's share of making an image: text, denoise, decode.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/denoiser.h"
#include "engine/image/image.h"
#include "engine/preview.h"
#include "engine/text/text_encoder.h"
#include "engine/text_hints.h"
#include "engine/transformer.h"
#include "engine/vae/decoder.h"

namespace patchflow {

// What no request may pass. A checkpoint's own num_train_timesteps may allow fewer steps.
inline constexpr int kMaxSizePx = 8192;  // A side.
inline constexpr int kMaxSteps = 1000;
inline constexpr double kMaxGuidanceScale = 50;

inline constexpr int kMaxBatchSize = 16;

// What an image of a batch does not share with the others.
struct BatchedImage {
  std::string prompt;
  std::string negative_prompt;
  uint64_t seed = 0;
  PreviewRequest preview = {};
};

struct ImageRequest {
  std::string prompt;           // Valid UTF-8.
  std::string negative_prompt;  // Empty is the unconditional prompt.
  int width_px = 0;             // Multiples of ModelDescription::size_multiple_px().
  int height_px = 0;
  int steps = 20;
  double guidance_scale = 4.5;  // 1 runs one branch.
  std::string scheduler;        // A name of Sampler::Names().
  uint64_t seed = 0;            // Of this very image: the caller adds the image index.
  PreviewRequest preview = {};  // Changes nothing of the image.
  // More images, made in the same pass over the network. Decoded one after the other.
  std::vector<BatchedImage> beside = {};
  // Rows of that pass, 1 .. kMaxBatchSize. Those without an image of their own repeat the first
  // one, for nothing but this: the bytes of an image depend on how many rows there are, and not on
  // what is in the others, nor on which of them is its own.
  int batch_size = 1;
};

enum class Phase { kText, kDenoise, kDecode };

// Lower case: "denoise".
const char* NameOf(Phase phase);

// The outside's hold on a running request. Called on the rank's thread. Continue() is also asked
// between the tiles of the decoding, with num_steps + 1, num_steps + 2, ...
class RequestMonitor : public StepMonitor {
 public:
  virtual void Enter(Phase phase) = 0;
  // Steps that the device has finished, before each question.
  virtual void StepsDone(int steps) = 0;
};

struct PhaseTimes {
  absl::Duration text;
  absl::Duration denoise;
  absl::Duration decode;
};

struct Generated {
  std::optional<Image> image;  // On the rank that returns images; nothing on the others.
  std::vector<Image> beside;   // There, too: those of ImageRequest::beside.
  // If some images of a batch are not finite, and others are: by image, the request's own first,
  // INTERNAL / NON_FINITE_OUTPUT for those, which have no pixels; OK for the others, which they did
  // not touch. Empty otherwise.
  std::vector<absl::Status> faults;
  PhaseTimes times;                        // Of the pass: of all of its images.
  std::vector<absl::Duration> step_times;  // Of every step, by the device's clock.
  int64_t peak_memory_bytes = 0;  // Of this rank's device since the request began. 0 on CPUs.
};

// How this device takes part, decided outside. The default-built value is one device for
// everything. The ports outlive the engine.
struct EnginePorts {
  TensorShard transformer_shard;
  BlockRange blocks{0, -1};
  PartialSum* transformer_sum = nullptr;  // nullptr: local.
  TensorShard text_shard;
  PartialSum* text_sum = nullptr;
  std::function<std::unique_ptr<Denoiser>(const Transformer&)> make_denoiser;  // Empty: serial.
  // Decode of the whole image from whole latents [N, c, H, W] on every rank: pixels on the rank
  // that returns images, undefined elsewhere. Calls tile_done, which may throw Cancelled, the same
  // number of times on every rank, at places where no rank waits for another. Empty: this device
  // alone decodes and returns them.
  std::function<Tensor(const VaeDecoder&, const Tensor& latents,
                       const std::function<void()>& tile_done)>
      decode;
  bool shows_previews = true;  // Of rank 0 of a group.
};

struct EngineOptions {
  std::filesystem::path model_dir;
  at::Device device = at::kCPU;
  // float8 (kFloat8_e4m3fn) is bfloat16 but for what engine/models/pixart.h says of it.
  at::ScalarType dtype = at::kFloat;
  // Texts of requests to come, encoded beside the denoising of another one. It changes no image.
  // Ignored where ranks share the text encoder (EnginePorts::text_sum): its collectives must not
  // come between those of the denoising.
  std::shared_ptr<TextHints> text_hints = nullptr;
  // Of the requests to come: the texts of two batches are kept.
  int batch_size = 1;
};

// What a checkpoint is, as the front end must know it.
struct ModelDescription {
  std::string architecture;  // Class of the transformer, as its config says.
  TransformerConfig transformer;
  VaeConfig vae;
  std::string default_scheduler;
  double default_guidance_scale = 4.5;
  int default_steps = 20;

  int size_multiple_px() const { return vae.scale_factor * transformer.patch_size; }
  int default_size_px() const { return transformer.default_size_px / 8 * vae.scale_factor; }
};

// Reads model_index.json, the components' configs and, where there is one, <model>/patchflow.json
// with
// {"default_guidance_scale": 3.0, "default_steps": 20}. No weights. Everything wrong is in one
// INVALID_ARGUMENT, or NOT_FOUND if there is no such folder.
absl::StatusOr<ModelDescription> DescribeModel(const std::filesystem::path& model_dir);

// A component as it was loaded.
struct LoadedComponent {
  std::string name;
  absl::Duration time;
  int64_t parameter_bytes = 0;  // Held by this rank.
};

// The ErrorInfo reason of a status of Engine: "INVALID_REQUEST", "CANCELLED", "GPU_OUT_OF_MEMORY",
// "NON_FINITE_OUTPUT", "INTERNAL"; empty for a status that carries none.
std::string EngineReasonOf(const absl::Status& status);
absl::Status WithEngineReason(absl::Status status, std::string_view reason);

// One rank. Not thread-safe: its rank thread makes, uses and destroys it.
class Engine {
 public:
  virtual ~Engine() = default;
  // Loads all components. Everything wrong with the directory is in one status.
  static absl::StatusOr<std::unique_ptr<Engine>> Load(const EngineOptions& options,
                                                      EnginePorts ports);

  virtual const ModelDescription& description() const = 0;
  virtual const std::vector<LoadedComponent>& components() const = 0;  // In the order of loading.

  // Collective. The one place where exceptions of LibTorch and of communicators become a status:
  //   CANCELLED           the monitor said no, at the same step on every rank: harmless
  //   INVALID_ARGUMENT    a request that this model can't make: harmless, found before anything is
  //   enqueued RESOURCE_EXHAUSTED  out of device memory INTERNAL            no image of the batch
  //   is finite, and every other exception
  // Each carries a reason. After one that is not harmless the group is unusable.
  virtual absl::StatusOr<Generated> Generate(const ImageRequest& request,
                                             RequestMonitor& monitor) = 0;
};

}  // namespace patchflow
