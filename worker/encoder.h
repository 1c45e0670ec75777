// Encodes images beside the ranks, under a watch of its own.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/image/image.h"
#include "worker/job.h"
#include "worker/phase_limits.h"

namespace patchflow {

struct EncoderOptions {
  absl::Duration first_run_timeout = absl::Seconds(120);  // See LearnedLimit.
  absl::Duration phase_timeout = absl::Seconds(10);
  // Called on the encoding thread before each image. May be empty.
  std::function<void()> before = nullptr;
};

// Thread-safe.
class Encoder {
 public:
  explicit Encoder(EncoderOptions options = {}) : options_(std::move(options)) {}

  // One image that is encoded and handed over.
  class Encoding {
   public:
    ~Encoding();  // Wait().
    // Until events.OnImage() has returned; then what came of it. UNAVAILABLE / ENGINE_FAILED if the
    // file was not ready within the limit: its thread is left behind and will hand over nothing.
    absl::Status Wait();

   private:
    friend class Encoder;
    struct Shared;
    std::shared_ptr<Shared> shared_;
    std::thread thread_;
    std::function<void(absl::Duration)> record_;
    absl::Duration limit_;
  };
  // `events` must outlive the encoding; `request_id`: for logs.
  std::unique_ptr<Encoding> Begin(const JobImage& asked, Generated made, JobEvents& events,
                                  std::string request_id = {});

 private:
  using Key = std::tuple<int, int, ImageFormat>;

  const EncoderOptions options_;
  std::mutex mutex_;
  std::map<Key, LearnedLimit> limits_;
};

}  // namespace patchflow
