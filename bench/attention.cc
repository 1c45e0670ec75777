// patchflow-bench attention: attention at PixArt-XL/2's shape, 16 heads of 72, to the image and to
// the text, by every kernel there is: true floating-point operations over the median time.
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
constexpr double kShortFlop = 1e11;  // Takes tens of microseconds.

struct Shape {
  int64_t batch;
  int64_t queries;
  int64_t keys;
  bool biased = false;  // Cross-attention, one bias a key.
};
const std::vector<Shape> kGpuShapes = {
    {2, 1024, 1024},   {2, 2048, 2048},      {2, 4096, 4096},      {2, 16384, 16384},
    {1, 65536, 65536}, {2, 1024, 4096},      {2, 2048, 4096},      {2, 2048, 16384},
    {2, 8192, 16384},  {2, 1024, 120, true}, {2, 4096, 120, true}, {2, 16384, 120, true}};
const std::vector<Shape> kCpuShapes = {{1, 256, 256}};

// What would run without our own.
AttentionKernel StockKernel(AttentionShape shape) {
  shape.hopper = false;
  return ChooseAttentionKernel(shape);
}

#ifdef PATCHFLOW_CUDA
constexpr int kMostSplitBlocks = 4;

std::vector<AttentionSm90Tiling> Tilings(bool splits) {
  std::vector<AttentionSm90Tiling> tilings;
  for (const AttentionSm90Schedule schedule : kAttentionSm90Schedules) {
    tilings.push_back({schedule});
  }
  tilings.push_back({AttentionSm90Schedule::kFewKeys});
  for (int blocks = 1; splits && blocks <= kMostSplitBlocks; ++blocks) {
    for (int pieces = 2; pieces <= kAttentionSm90MostPieces; ++pieces) {
      tilings.push_back({AttentionSm90Schedule::kThree, blocks, pieces});
    }
  }
  return tilings;
}

bool Serves(const AttentionSm90Tiling& tiling, const Shape& shape) {
  const bool few = tiling.schedule == AttentionSm90Schedule::kFewKeys;
  return few ? shape.keys <= kAttentionSm90FewKeys
             : !shape.biased || tiling.schedule == AttentionSm90Schedule::kTwo;
}
#endif

nlohmann::json Measure(const Shape& shape, const CommonOptions& common,
                       [[maybe_unused]] bool splits) {
  const at::Device device = common.at_device();
  const auto options = at::TensorOptions().device(device).dtype(common.dtype());
  // Slices of one product, as the model has them.
  const Tensor kv = at::randn({shape.batch, shape.keys, 3, kHeads, kHeadSize}, options);
  const Tensor q = shape.queries == shape.keys
                       ? kv.select(2, 0)
                       : at::randn({shape.batch, shape.queries, kHeads, kHeadSize}, options);
  const Tensor k = kv.select(2, 1);
  const Tensor v = kv.select(2, 2);
  const Tensor bias =
      shape.biased ? AlignBias(at::zeros({shape.batch, 1, 1, shape.keys}, options)) : Tensor();
  const double flop =
      4.0 * static_cast<double>(shape.batch * shape.queries * shape.keys * kHeads * kHeadSize);
  const int burst = device.is_cuda() && flop < kShortFlop ? 10 : 1;
  Repeats repeats = common.repeats;
  if (shape.keys > 20000) repeats = {std::min(repeats.warm_up, 1), std::min(repeats.measured, 5)};
  nlohmann::json row = {{"batch", shape.batch}, {"queries", shape.queries}, {"keys", shape.keys}};
  const auto rate = [&](const std::string& kernel, const std::function<void()>& run) {
    const double found = TeraflopPerSecond(flop, TimeOf(device, run, repeats, burst).median_ms);
    row[kernel] = found;
    return found;
  };
  const AttentionKernel stock_kernel = StockKernel(AttentionShapeOf(q, k, bias));
  row["stock_kernel"] = std::string(NameOf(stock_kernel));
  [[maybe_unused]] const double stock = rate("stock", [&] { SdpaBy(stock_kernel, q, k, v, bias); });
#ifdef PATCHFLOW_CUDA
  if (device.is_cuda() && at::cuda::getCurrentDeviceProperties()->major == 9) {
    double own = 0;
    for (const AttentionSm90Tiling& tiling : Tilings(splits)) {
      if (!Serves(tiling, shape)) continue;
      own = std::max(own, rate(NameOf(tiling), [&] { OwnAttention(q, k, v, tiling, bias); }));
    }
    row["chosen"] = NameOf(ChosenTiling(q, k, bias));
    row["chosen_ratio"] = rate("engine", [&] { Sdpa(q, k, v, bias); }) / stock;
    row["ratio"] = own / stock;
  }
#endif
  return row;
}

std::vector<Column> Columns([[maybe_unused]] bool splits) {
  std::vector<Column> columns = {{"batch", "batch"},
                                 {"queries", "queries"},
                                 {"keys", "keys"},
                                 {"stock_kernel", "stock"},
                                 {"stock", "stock TFLOP/s", 0}};
#ifdef PATCHFLOW_CUDA
  for (const AttentionSm90Tiling& tiling : Tilings(splits)) {
    const std::string name = NameOf(tiling);
    columns.push_back({name, name, 0});
  }
  columns.push_back({"chosen", "chosen"});
  columns.push_back({"engine", "engine", 0});
  columns.push_back({"chosen_ratio", "engine / stock", 2});
  columns.push_back({"ratio", "best of ours / stock", 2});
#endif
  return columns;
}

void Run(const CommonOptions& common, bool splits) {
  const at::Device device = common.at_device();
  const DeviceThread thread(DeviceThread::MakeStream(device));
  Report report("attention", device, "16 heads of 72, TFLOP/s of true work", Columns(splits));
  for (const Shape& one : device.is_cuda() ? kGpuShapes : kCpuShapes) {
    report.Row(Measure(one, common, splits));
  }
  report.Write(common.json);
}

}  // namespace

void AddAttentionCommand(CLI::App& app, const CommonOptions& common) {
  CLI::App* command = app.add_subcommand("attention", "Attention at a head size of 72");
  const auto splits = std::make_shared<bool>(false);
  command->add_flag("--splits", *splits, "Also blocks of queries over parts of the keys");
  command->callback([&common, splits] { Run(common, *splits); });
}

}  // namespace patchflow
