// patchflow-bench: how far each part is from its limit on this machine. Every command prints one
// table with the machine above it; --json keeps the numbers. On CPUs the same commands run at small
// sizes.
#include <ATen/ATen.h>

#include <cstdio>
#include <exception>

#include "bench/commands.h"
#include "engine/device.h"

namespace patchflow {

bool CommonOptions::on_cuda() const {
  if (device == "cuda" && CudaDeviceCount() == 0) {
    throw CLI::ValidationError("--device", "cuda: there is none on this machine, or in this build");
  }
  return device == "cuda" || (device == "auto" && CudaDeviceCount() > 0);
}

at::Device CommonOptions::at_device() const {
  return on_cuda() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
}

at::ScalarType CommonOptions::dtype() const { return on_cuda() ? at::kBFloat16 : at::kFloat; }

}  // namespace patchflow

int main(int argc, char** argv) {
  CLI::App app("How far each part is from its limit on this machine");
  app.require_subcommand(1);
  app.fallthrough();
  patchflow::CommonOptions common;
  app.add_option("--device", common.device)
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--json", common.json, "Write the numbers to this file");
  app.add_option("--repeats", common.repeats.measured)
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--warm-up", common.repeats.warm_up)
      ->check(CLI::Range(0, 10000))
      ->capture_default_str();
  patchflow::AddGemmCommand(app, common);
  patchflow::AddAttentionCommand(app, common);
  patchflow::AddStepCommand(app, common);
  patchflow::AddPrecisionCommand(app, common);
  patchflow::AddTextCommand(app, common);
  patchflow::AddLinkCommand(app, common);
  patchflow::AddCpuCommand(app, common);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "patchflow-bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
