// An engine that makes images without a model, and can be told to fail.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "engine/engine.h"

namespace patchflow {

struct FakeEngineOptions {
  int rank = 0;  // Rank 0 returns images.
  std::chrono::milliseconds step{0};
  // Called before each step on the rank's thread; may throw or sleep.
  std::function<void(const ImageRequest&, int step)> before_step = nullptr;
  std::function<void(const ImageRequest&)> before_decode = nullptr;
  // Called with what was made, to spoil it.
  std::function<void(const ImageRequest&, Generated&)> after = nullptr;
};

// Every byte of an image is its seed.
class FakeEngine final : public Engine {
 public:
  explicit FakeEngine(FakeEngineOptions options) : options_(std::move(options)) {
    description_.architecture = "FakeTransformer";
    description_.default_scheduler = "dpm-solver++";
    description_.transformer.default_size_px = 256;
  }

  const ModelDescription& description() const override { return description_; }
  const std::vector<LoadedComponent>& components() const override { return components_; }

  absl::StatusOr<Generated> Generate(const ImageRequest& request,
                                     RequestMonitor& monitor) override {
    if (request.width_px % 16 != 0) {
      return WithEngineReason(absl::InvalidArgumentError("width_px: not a multiple of 16"),
                              "INVALID_REQUEST");
    }
    try {
      return Make(request, monitor);
    } catch (const Cancelled&) {
      return WithEngineReason(absl::CancelledError("cancelled"), "CANCELLED");
    } catch (const std::exception& error) {
      return WithEngineReason(absl::InternalError(error.what()), "INTERNAL");
    }
  }

 private:
  Generated Make(const ImageRequest& request, RequestMonitor& monitor) {
    monitor.Enter(Phase::kText);
    monitor.Enter(Phase::kDenoise);
    for (int step = 0; step <= request.steps; ++step) {
      monitor.StepsDone(step);
      if (!monitor.Continue(step)) throw Cancelled();
      if (step == request.steps) break;
      if (options_.before_step) options_.before_step(request, step);
      std::this_thread::sleep_for(options_.step);
    }
    monitor.Enter(Phase::kDecode);
    if (options_.before_decode) options_.before_decode(request);
    Generated result;
    result.peak_memory_bytes = 100 + options_.rank;
    if (options_.rank == 0) {
      result.image = ImageOf(request, request.seed);
      for (const BatchedImage& image : request.beside) {
        result.beside.push_back(ImageOf(request, image.seed));
      }
    }
    result.step_times.resize(request.steps, absl::FromChrono(options_.step));
    if (options_.after) options_.after(request, result);
    return result;
  }

  static Image ImageOf(const ImageRequest& request, uint64_t seed) {
    Image image{request.width_px, request.height_px, {}};
    image.pixels.resize(size_t{3} * request.width_px * request.height_px,
                        static_cast<uint8_t>(seed));
    return image;
  }

  FakeEngineOptions options_;
  ModelDescription description_;
  std::vector<LoadedComponent> components_;
};

}  // namespace patchflow
