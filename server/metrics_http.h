// The HTTP listener for Prometheus and for probes that speak no gRPC.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace patchflow {

// GET /metrics: `metrics()`. GET /healthz and /readyz: 200 or 503 as `live()` and `ready()` say.
class MetricsHttp {
 public:
  struct Answers {
    std::function<std::string()> metrics;
    std::function<bool()> live;
    std::function<bool()> ready;
  };
  // UNAVAILABLE naming the address if it cannot be bound. The functions are called on threads of
  // the listener.
  static absl::StatusOr<std::unique_ptr<MetricsHttp>> Start(const std::string& address,
                                                            Answers answers);
  virtual ~MetricsHttp() = default;
  // host:port, with the port that was taken.
  virtual std::string address() const = 0;
};

}  // namespace patchflow
