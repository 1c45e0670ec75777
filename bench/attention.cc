// patchflow-bench attention: self-attention at PixArt-XL/2's shape, 16 heads of 72, by every kernel
// there is: true floating-point operations over the median time.
#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/commands.h"
#include "bench/report.h"
#include "engine/attention.h"
#include "engine/device.h"

#ifdef PATCHFLOW_CUDA
#include <ATen/cuda/CUDAContext.h>

#include "bench/own_attention.h"
#endif

namespace patchflow {
namespace {

constexpr int64_t kHeads = 16;
constexpr int64_t kHeadSize = 72;

struct Shape {
  int64_t batch;
  int64_t queries;
  int64_t keys;
};
const std::vector<Shape> kGpuShapes = {{2, 1024, 1024},   {2, 4096, 4096}, {2, 16384, 16384},
                                       {1, 65536, 65536}, {2, 1024, 4096}, {2, 2048, 16384}};
const std::vector<Shape> kCpuShapes = {{1, 256, 256}};

nlohmann::json Measure(const Shape& shape, const CommonOptions& common) {
  const at::Device device = common.at_device();
  const auto options = at::TensorOptions().device(device).dtype(common.dtype());
  // Slices of one product, as the model has them.
  const Tensor kv = at::randn({shape.batch, shape.keys, 3, kHeads, kHeadSize}, options);
  const Tensor q = shape.queries == shape.keys
                       ? kv.select(2, 0)
                       : at::randn({shape.batch, shape.queries, kHeads, kHeadSize}, options);
  const Tensor k = kv.select(2, 1);
  const Tensor v = kv.select(2, 2);
  const double flop =
      4.0 * static_cast<double>(shape.batch * shape.queries * shape.keys * kHeads * kHeadSize);
  Repeats repeats = common.repeats;
  if (shape.keys > 20000) repeats = {std::min(repeats.warm_up, 1), std::min(repeats.measured, 5)};
  nlohmann::json row = {{"batch", shape.batch}, {"queries", shape.queries}, {"keys", shape.keys}};
  double stock = 0;
  double own = 0;
  const auto rate = [&](const std::string& kernel, const std::function<void()>& run) {
    const double found = TeraflopPerSecond(flop, TimeOf(device, run, repeats).median_ms);
    row[kernel] = found;
    return found;
  };
  stock = rate("stock", [&] { Sdpa(q, k, v); });
#ifdef PATCHFLOW_CUDA
  if (device.is_cuda() && at::cuda::getCurrentDeviceProperties()->major == 9) {
    for (const AttentionSm90Schedule schedule : kAttentionSm90Schedules) {
      own = std::max(own,
                     rate(std::string(NameOf(schedule)), [&] { OwnAttention(q, k, v, schedule); }));
    }
    row["chosen"] = std::string(NameOf(ChosenSchedule(q, k)));
    row["ratio"] = own / stock;
  }
#endif
  return row;
}

std::vector<Column> Columns() {
  std::vector<Column> columns = {
      {"batch", "batch"}, {"queries", "queries"}, {"keys", "keys"}, {"stock", "stock TFLOP/s", 0}};
#ifdef PATCHFLOW_CUDA
  for (const AttentionSm90Schedule schedule : kAttentionSm90Schedules) {
    const std::string name(NameOf(schedule));
    columns.push_back({name, name, 0});
  }
  columns.push_back({"chosen", "would choose"});
  columns.push_back({"ratio", "best of ours / stock", 2});
#endif
  return columns;
}

void Run(const CommonOptions& common) {
  const at::Device device = common.at_device();
  const DeviceThread thread(DeviceThread::MakeStream(device));
  const AttentionShape shape{device.type(), common.dtype(), 4096, 4096, kHeadSize, false};
  Report report("attention", device,
                "16 heads of 72, stock is " + std::string(NameOf(ChooseAttentionKernel(shape))) +
                    ", TFLOP/s of true work",
                Columns());
  for (const Shape& one : device.is_cuda() ? kGpuShapes : kCpuShapes) {
    report.Row(Measure(one, common));
  }
  report.Write(common.json);
}

}  // namespace

void AddAttentionCommand(CLI::App& app, const CommonOptions& common) {
  CLI::App* command = app.add_subcommand("attention", "Self-attention at a head size of 72");
  command->callback([&common] { Run(common); });
}

}  // namespace patchflow
