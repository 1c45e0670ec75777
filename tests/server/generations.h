// Generations and subscribers for tests.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "server/errors.h"
#include "server/generation.h"
#include "server/sha256.h"

namespace patchflow {

inline GenerationSpec TestSpec(const std::string& id, int count = 1, int steps = 4) {
  GenerationSpec spec;
  spec.request_id = id;
  spec.fingerprint = "fingerprint";
  spec.prompt = "a red circle";
  spec.accepted.set_plan_digest("plan-1");
  auto& params = *spec.accepted.mutable_effective();
  params.set_width(64);
  params.set_height(64);
  params.set_count(count);
  params.set_steps(steps);
  params.set_guidance_scale(4.5F);
  params.set_seed(7);
  params.set_model("shapes");
  return spec;
}

inline std::shared_ptr<Generation> MakeGeneration(
    GenerationSpec spec, Generation::EndHook hook = [](Generation&) {}) {
  return std::make_shared<Generation>(std::move(spec), std::move(hook));
}

inline std::shared_ptr<const EncodedImage> TestImage(int index, size_t bytes = 1000) {
  auto image = std::make_shared<EncodedImage>();
  image->data = std::string(bytes, static_cast<char>('a' + index));
  image->header.set_image_index(index);
  image->header.set_total_bytes(bytes);
  image->header.set_sha256(Sha256(image->data));
  return image;
}

inline void AddImage(Generation& generation, int index, size_t bytes = 1000) {
  generation.AddImage(index, TestImage(index, bytes), {{"denoise", absl::Milliseconds(10)}}, 5);
}

inline absl::Status TestError(absl::StatusCode code, const char* reason) {
  return MakeError(code, reason, "test");
}

// Counts what it is told.
class CountingSubscriber : public Generation::Subscriber {
 public:
  void OnChange() override { ++changes; }
  std::atomic<int> changes = 0;
};

// Until `condition`, for at most 10 s.
inline bool Eventually(const std::function<bool()>& condition) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace patchflow
