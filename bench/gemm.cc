// patchflow-bench gemm: the products of a PixArt-XL/2 block with what follows each of them, by
// cuBLASLt and LibTorch's elementwise operations and by every tile of our own; on Hopper the same
// in 8 bits, too.
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

#include "engine/kernels/fp8_rows.h"
#include "engine/kernels/gemm_fp8_sm90.h"
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
  bool after_norm;  // Which rounds its result to 8 bits itself.
};
const std::vector<Shape> kShapes = {
    {"qkv", kWidth, 3 * kWidth, After::kBias, 1, true},
    {"cross q", kWidth, kWidth, After::kBias, 1, false},
    {"out", kWidth, kWidth, After::kResidual, 2, false},
    {"mlp up, GELU", kWidth, 4 * kWidth, After::kGelu, 1, true},
    {"mlp down", 4 * kWidth, kWidth, After::kResidual, 1, false},
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

void RunAfter(const Operands& t, const Tensor& y, After after) {
  if (after == After::kGelu) at::gelu(y, "tanh");
  if (after == After::kResidual) at::addcmul(t.residual, y, t.gate_of_dtype);
}

void RunStock(const Operands& t, After after) {
  if (after == After::kGelu && t.x.is_cuda()) {
    at::_addmm_activation(t.bias, t.x, t.weight.t(), 1, 1, /*use_gelu=*/true);
    return;
  }
  RunAfter(t, at::linear(t.x, t.weight, t.bias), after);
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

struct Fp8Rows {
  explicit Fp8Rows(const Tensor& x)
      : elements(at::empty_like(x, x.options().dtype(at::kFloat8_e4m3fn))),
        scale(at::empty({x.size(0)}, x.options().dtype(at::kFloat))) {
    Fill(x);
  }
  void Fill(const Tensor& x) {
    C10_CUDA_CHECK(
        LaunchFp8Rows({x.const_data_ptr(), elements.mutable_data_ptr(),
                       scale.mutable_data_ptr<float>(), x.size(0), static_cast<int>(x.size(1))},
                      at::cuda::getCurrentCUDAStream()));
  }
  Tensor elements, scale;
};

void RunStockFp8(const Operands& t, const Fp8Rows& x, const Fp8Rows& weight, After after) {
  const Tensor y = at::_scaled_mm(x.elements, weight.elements.t(), x.scale.unsqueeze(1),
                                  weight.scale.unsqueeze(0), t.bias, {}, at::kBFloat16,
                                  /*use_fast_accum=*/true);
  RunAfter(t, y, after);
}

void RunOwnFp8(const Operands& t, const Fp8Rows& x, const Fp8Rows& weight, After after) {
  GemmFp8Args args;
  args.x = x.elements.const_data_ptr();
  args.x_scale = x.scale.const_data_ptr<float>();
  args.weight = weight.elements.const_data_ptr();
  args.weight_scale = weight.scale.const_data_ptr<float>();
  args.bias = t.bias.const_data_ptr();
  args.gate = t.gate.const_data_ptr<float>();
  args.residual = t.residual.const_data_ptr();
  args.y = t.y.mutable_data_ptr();
  args.rows = static_cast<int>(t.x.size(0));
  args.in = static_cast<int>(t.x.size(1));
  args.out = static_cast<int>(t.weight.size(0));
  C10_CUDA_CHECK(LaunchGemmFp8Sm90(args, EpilogueOf(after), at::cuda::getCurrentCUDAStream()));
}

// In 8 bits: ours, LibTorch's product with its operations, the rounding of x, and in "fp8_ms" ours
// with the rounding where no norm does it.
void MeasureFp8(const Shape& shape, const Operands& t, double flop, const Repeats& repeats,
                nlohmann::json& row) {
  Fp8Rows x(t.x);
  const Fp8Rows weight(t.weight);
  const auto measure = [&](const std::string& kernel, const std::function<void()>& run) {
    const double ms = TimeOf(t.x.device(), run, repeats, kBurst).median_ms;
    row[kernel + "_ms"] = ms;
    row[kernel] = TeraflopPerSecond(flop, ms);
  };
  measure("fp8 own", [&] { RunOwnFp8(t, x, weight, shape.after); });
  measure("fp8 stock", [&] { RunStockFp8(t, x, weight, shape.after); });
  const double rounding_ms = TimeOf(
                                 t.x.device(), [&] { x.Fill(t.x); }, repeats, kBurst)
                                 .median_ms;
  row["rounding_us"] = 1000 * rounding_ms;
  row["fp8_ms"] = row["fp8 own_ms"].get<double>() + (shape.after_norm ? 0 : rounding_ms);
  row["fp8"] = TeraflopPerSecond(flop, row["fp8_ms"].get<double>());
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
      if (!Serves(tile, EpilogueOf(shape.after), shape.in)) continue;
      measure(std::string(NameOf(tile)), [&] { RunOwn(t, shape.after, tile); });
    }
    const auto chosen = ChooseGemmTile(rows, shape.in, shape.out, EpilogueOf(shape.after));
    row["chosen"] = chosen ? std::string(NameOf(*chosen)) : "stock";
    row["chosen_ms"] = row[row["chosen"].get<std::string>() + "_ms"];
    MeasureFp8(shape, t, flop, common.repeats, row);
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
#ifdef PATCHFLOW_CUDA
  columns.push_back({"fp8 own", "fp8 own", 0});
  columns.push_back({"fp8 stock", "fp8 stock", 0});
  columns.push_back({"rounding_us", "rounding us", 1});
  columns.push_back({"fp8", "fp8, rounded", 0});
#endif
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
  for (const int64_t rows : options.rows) {
    double flop = 0;
    nlohmann::json sum_ms = {{"stock_ms", 0.0}, {"chosen_ms", 0.0}, {"least_ms", 0.0}};
    double fp8_ms = 0;
    for (const Shape& shape : kShapes) {
      const nlohmann::json row = Measure(shape, rows, common);
      flop += shape.per_block * 2.0 * static_cast<double>(rows * shape.in * shape.out);
      for (auto& [key, value] : sum_ms.items()) {
        value = value.get<double>() + shape.per_block * row[key].get<double>();
      }
      fp8_ms += shape.per_block * row.value("fp8_ms", 0.0);
      report.Row(row);
    }
    nlohmann::json block = {{"rows", rows},
                            {"product", "block: stock, fastest, chosen"},
                            {"stock", TeraflopPerSecond(flop, sum_ms["stock_ms"].get<double>())},
                            {"fastest", TeraflopPerSecond(flop, sum_ms["least_ms"].get<double>())},
                            {"chosen", TeraflopPerSecond(flop, sum_ms["chosen_ms"].get<double>())}};
    if (fp8_ms > 0) block["fp8"] = TeraflopPerSecond(flop, fp8_ms);
    report.Row(block);
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
