// The commands of patchflow-bench, one file each.
#pragma once

#include <ATen/core/Tensor.h>

#include <CLI/CLI.hpp>
#include <string>

#include "bench/timing.h"

namespace patchflow {

// What all commands take.
struct CommonOptions {
  std::string device = "auto";
  std::string json;
  Repeats repeats;

  bool on_cuda() const;  // Throws CLI::ValidationError for a device that is not there.
  at::Device at_device() const;
  at::ScalarType dtype() const;  // bfloat16 on GPUs, float32 on CPUs.
};

void AddGemmCommand(CLI::App& app, const CommonOptions& common);
void AddAttentionCommand(CLI::App& app, const CommonOptions& common);
void AddStepCommand(CLI::App& app, const CommonOptions& common);
void AddPrecisionCommand(CLI::App& app, const CommonOptions& common);
void AddTextCommand(CLI::App& app, const CommonOptions& common);
void AddLinkCommand(CLI::App& app, const CommonOptions& common);
void AddCpuCommand(CLI::App& app, const CommonOptions& common);

}  // namespace patchflow
