// The options of a load run.
#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "patchflow/v1/image_generation.pb.h"

namespace patchflow {

// As given; MakeLoadPlan checks them.
struct LoadOptions {
  std::vector<double> rates;       // Open loop: arrivals a second, one level of the run each.
  std::vector<int> concurrencies;  // Closed loop: clients, one level each.
  std::string duration;            // Of each level, after the warm-up.
  int64_t requests = 0;            // Of each level, instead of a duration.
  std::string warm_up = "0s";      // Requests that begin in it are sent and not counted.

  std::string model;
  std::vector<std::string> mix;  // "WxH:STEPS:WEIGHT"
  int images = 1;                // Of each request.
  v1::ImageFormat format = v1::IMAGE_FORMAT_UNSPECIFIED;
  v1::Priority priority = v1::PRIORITY_UNSPECIFIED;
  std::string prompts;  // File; empty: prompts of our own.
  uint64_t seed = 1;    // Of everything random.

  // Shares of the requests that end otherwise than by waiting.
  double cancels = 0;
  double cancel_calls = 0;
  double disconnects = 0;
  double deadlines = 0;
  std::string within = "1s";  // They do so at a time drawn evenly from 0 to this.

  std::string limit = "10s";  // Of latency, for the goodput.
  int connections = 1;
  int max_in_flight = 10000;  // Open loop: arrivals beyond it are counted and not sent.
  std::string records;        // File: a line for each request.
  bool json = false;
  bool quiet = false;
};

void AddLoadOptions(CLI::App& command, LoadOptions& options);

}  // namespace patchflow
