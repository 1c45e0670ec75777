// What the programs that measure layouts are told alike, and what they make of it.
#pragma once

#include <ATen/core/Tensor.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "bench/random_model.h"
#include "engine/transformer.h"
#include "parallel/layout.h"

namespace patchflow {

struct LayoutOptions {
  std::vector<int64_t> sizes_px = {1024, 2048};
  std::vector<std::string> layouts = {"tensor=2",
                                      "ulysses=2",
                                      "ring=2",
                                      "guidance=2",
                                      "distrifusion=2,warmup_steps=1",
                                      "pipefusion=2,patches=2,warmup_steps=1",
                                      "pipefusion=2,patches=4,warmup_steps=1"};
  std::string device = "cuda";
  PixArtShape shape;
  std::string model;
  std::string random_model;
  std::string json;

  at::DeviceType device_type() const { return device == "cuda" ? at::kCUDA : at::kCPU; }
};

// `options` outlives `app`.
void AddLayoutOptions(CLI::App& app, LayoutOptions& options);

// Throws std::runtime_error where there is no such device; on CPUs ranks get one thread each.
void CheckDevice(const LayoutOptions& options);

// The checkpoint's, or that of random weights, which are drawn once for all processes that are
// given one folder, and else into `scratch`.
std::filesystem::path TransformerDir(const LayoutOptions& options,
                                     const std::filesystem::path& scratch);
// Throws std::runtime_error.
TransformerConfig ConfigOf(const std::filesystem::path& transformer_dir);
// "random weights, 28 blocks, ..."
std::string ModelWords(const LayoutOptions& options, const TransformerConfig& model);

// Throws CLI::ValidationError for one that the model or the machine can't run.
std::vector<Layout> LayoutsOf(const LayoutOptions& options, const TransformerConfig& model);

}  // namespace patchflow
