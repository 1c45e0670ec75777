// patchflow-bench gemm: the products of a PixArt-XL/2 block with what follows each of them, by
// cuBLASLt and LibTorch's elementwise operations and by every tile of our own.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "bench/commands.h"
#include "bench/report.h"
#include "engine/device.h"

#ifdef PATCHFLOW_CUDA
#include <ATen/cuda/CUDAContext.h>

#include "engine/kernels/gemm_sm90.h"
#endif

namespace patchflow {
namespace {

using at::Tensor;

constexpr int64_t kWidth = 1152;
constexpr int kBurst = 10;

enum class After { kBias, kGelu, kResidual };

struct Shape {
  const char* name;
  int64_t in;
  int64_t out;
  After after;
  int per_block;
};
const std::vector<Shape> kShapes = {
    {"qkv", kWidth, 3 * kWidth, After::kBias, 1},
    {"cross q", kWidth, kWidth, After::kBias, 1},
    {"out", kWidth, kWidth, After::kResidual, 2},
    {"mlp up, GELU", kWidth, 4 * kWidth, After::kGelu, 1},
    {"mlp down", 4 * kWidth, kWidth, After::kResidual, 1},
};

struct Operands {
  Operands(const Shape& shape, int64_t rows, const at::TensorOptions& options)
      : x(at::randn({rows, shape.in}, options)),
        weight(at::randn({shape.out, shape.in}, options) /
               std::sqrt(static_cast<double>(shape.in))),
        bias(at::randn({shape.out}, options)),
        gate(at::randn({shape.out}, options.dtype(at::kFloat))),
        residual(at::randn({rows, shape.out}, options)),
        y(at::empty({rows, shape.out}, options)),
        gate_of_dtype(gate.to(options.dtype().toScalarType())) {}
  Tensor x, weight, bias, gate, residual, y, gate_of_dtype;
};

void RunStock(const Operands& t, After after) {
  if (after == After::kGelu && t.x.is_cuda()) {
    at::_addmm_activation(t.bias, t.x, t.weight.t(), 1, 1, /*use_gelu=*/true);
    return;
  }
  const Tensor y = at::linear(t.x, t.weight, t.bias);
  if (after == After::kGelu) at::gelu(y, "tanh");
  if (after == After::kResidual) at::addcmul(t.residual, y, t.gate_of_dtype);
}

#ifdef PATCHFLOW_CUDA
bool IsHopper() { return at::cuda::getCurrentDeviceProperties()->major == 9; }

GemmEpilogue EpilogueOf(After after) {
  switch (after) {
    case After::kGelu:
      return GemmEpilogue::kBiasGelu;
    case After::kResidual:
      return GemmEpilogue::kBiasResidual;
    case After::kBias:
      break;
  }
  return GemmEpilogue::kBias;
}

void RunOwn(const Operands& t, After after, GemmTile tile) {
  GemmSm90Args args;
  args.x = t.x.const_data_ptr();
  args.weight = t.weight.const_data_ptr();
  args.bias = t.bias.const_data_ptr();
  args.gate = t.gate.const_data_ptr<float>();
  args.residual = t.residual.const_data_ptr();
  args.y = t.y.mutable_data_ptr();
  args.rows = static_cast<int>(t.x.size(0));
  args.in = static_cast<int>(t.x.size(1));
  args.out = static_cast<int>(t.weight.size(0));
  C10_CUDA_CHECK(LaunchGemmSm90(args, EpilogueOf(after), tile, at::cuda::getCurrentCUDAStream()));
}
#endif

// Milliseconds by kernel, and the fastest.
nlohmann::json Measure(const Shape& shape, int64_t rows, const CommonOptions& common) {
  const at::Device device = common.at_device();
  const Operands t(shape, rows, at::TensorOptions().device(device).dtype(common.dtype()));
  const double flop = 2.0 * static_cast<double>(rows * shape.in * shape.out);
  nlohmann::json row = {
      {"rows", rows}, {"product", shape.name}, {"in", shape.in}, {"out", shape.out}};
  double least_ms = std::numeric_limits<double>::infinity();
  const auto measure = [&](const std::string& kernel, const std::function<void()>& run) {
    const double ms = TimeOf(device, run, common.repeats, kBurst).median_ms;
    row[kernel + "_ms"] = ms;
    row[kernel] = TeraflopPerSecond(flop, ms);
    if (ms < least_ms) {
      least_ms = ms;
      row["fastest"] = kernel;
    }
  };
  measure("stock", [&] { RunStock(t, shape.after); });
#ifdef PATCHFLOW_CUDA
  if (device.is_cuda() && IsHopper()) {
    for (const GemmTile tile : kGemmTiles) {
      measure(std::string(NameOf(tile)), [&] { RunOwn(t, shape.after, tile); });
    }
    const auto chosen = ChooseGemmTile(rows, shape.in, shape.out, EpilogueOf(shape.after));
    row["chosen"] = chosen ? std::string(NameOf(*chosen)) : "stock";
    row["chosen_ms"] = row[row["chosen"].get<std::string>() + "_ms"];
  }
#endif
  if (!row.contains("chosen")) {
    row["chosen"] = "stock";
    row["chosen_ms"] = row["stock_ms"];
  }
  row["least_ms"] = least_ms;
  return row;
}

std::vector<Column> Columns() {
  std::vector<Column> columns = {{"rows", "rows"},
                                 {"product", "product"},
                                 {"in", "in"},
                                 {"out", "out"},
                                 {"stock", "stock TFLOP/s", 0}};
#ifdef PATCHFLOW_CUDA
  for (const GemmTile tile : kGemmTiles) {
    const std::string name(NameOf(tile));
    columns.push_back({name, name, 0});
  }
#endif
  columns.push_back({"fastest", "fastest"});
  columns.push_back({"chosen", "chosen"});
  return columns;
}

struct Options {
  std::vector<int64_t> rows;
};

void Run(const CommonOptions& common, Options options) {
  const at::Device device = common.at_device();
  const DeviceThread thread(DeviceThread::MakeStream(device));
  if (options.rows.empty()) {
    options.rows = device.is_cuda() ? std::vector<int64_t>{1024, 2048, 4096, 8192, 32768}
                                    : std::vector<int64_t>{32};
  }
  Report report("gemm", device,
                std::string("products of a PixArt-XL/2 block with what follows them, ") +
                    (device.is_cuda() ? "bfloat16" : "float32") + ", TFLOP/s",
                Columns());
  nlohmann::json blocks = nlohmann::json::array();
  for (const int64_t rows : options.rows) {
    double flop = 0;
    nlohmann::json sum_ms = {{"stock_ms", 0.0}, {"chosen_ms", 0.0}, {"least_ms", 0.0}};
    for (const Shape& shape : kShapes) {
      const nlohmann::json row = Measure(shape, rows, common);
      flop += shape.per_block * 2.0 * static_cast<double>(rows * shape.in * shape.out);
      for (auto& [key, value] : sum_ms.items()) {
        value = value.get<double>() + shape.per_block * row[key].get<double>();
      }
      report.Row(row);
    }
    report.Row({{"rows", rows},
                {"product", "block: stock, fastest, chosen"},
                {"stock", TeraflopPerSecond(flop, sum_ms["stock_ms"].get<double>())},
                {"fastest", TeraflopPerSecond(flop, sum_ms["least_ms"].get<double>())},
                {"chosen", TeraflopPerSecond(flop, sum_ms["chosen_ms"].get<double>())}});
  }
  report.Write(common.json);
}

}  // namespace

void AddGemmCommand(CLI::App& app, const CommonOptions& common) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("gemm", "Products of a block with what follows them");
  command->add_option("--rows", options->rows, "Tokens times batch")->delimiter(',');
  command->callback([&common, options] { Run(common, *options); });
}

}  // namespace patchflow
