// Hands a network its weights: mapped from safetensors, narrowed to this rank's shard, converted,
// on the device.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/ports.h"

namespace patchflow {

// Part `index` of `count` of a matrix that is split over the features. {0, 1} is the whole.
struct TensorShard {
  int index = 0;
  int count = 1;
  bool operator==(const TensorShard&) const = default;
};

// Units [begin, end) of `total` that a shard holds: contiguous, the first total % count shards hold
// one more. A shard beyond the units holds none.
struct UnitRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};
UnitRange ShareOf(int64_t total_units, TensorShard shard);

// A weight in the order in which kernels read it, where some have an order of their own
// (engine/kernels/cpu_kernels.h).
struct WeightPanels {
  Tensor elements;  // Undefined if there is none.
  int64_t out = 0;
  int64_t in = 0;
};

struct Linear {
  Tensor weight_OI;
  Tensor bias_O;  // Undefined if the layer has none.
  WeightPanels panels = {};
  Tensor operator()(const Tensor& x) const;
};

// A layer whose inputs are split: the bias is added once, after the sum over the tensor axis. One
// that is whole needs no sum, and is Linear to the bit.
struct RowLinear {
  Tensor weight_OI;
  Tensor bias_O;
  bool whole = false;
  WeightPanels panels = {};
  Tensor operator()(const Tensor& x, PartialSum& tensor_axis) const;
};

enum class Bias { kNo, kYes };

struct ReadOptions {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  // What every getter converts to unless told otherwise.
  TensorShard shard{};
};

// Errors are sticky: a failing getter returns an undefined tensor and building goes on; Finish()
// reports every missing, misshapen and unread tensor together. A network's file holds no error
// handling, but must not compute with a tensor before Finish() said OK. Copies share one state. Not
// thread-safe. Getters throw c10::Error when the device has no memory left, and only then.
//
// Every tensor is narrowed before it is converted or moved, and its pages are read once, so host
// memory holds no second copy. Tensors on CPUs that need no conversion are pages of the file:
// replacing a checkpoint means replacing its files, not writing into them, while a process serves
// it.
class WeightReader {
 public:
  // The folder of one component of a diffusers checkpoint (transformer/, vae/, text_encoder/).
  // Finds <stem>.safetensors, its sharded form by <stem>.safetensors.index.json, and both with a
  // .fp16 variant, for the stems diffusion_pytorch_model and model. NOT_FOUND names the folder and
  // what was looked for; INVALID_ARGUMENT a damaged file (truncated, a header that lies about
  // sizes, overlapping tensors), or shards that do not agree with their index.
  static absl::StatusOr<WeightReader> Open(const std::filesystem::path& component_dir,
                                           const ReadOptions& options);

  // Names under `scope` + '.'.
  WeightReader In(std::string_view scope) const;
  // The same names, converted to another dtype.
  WeightReader As(at::ScalarType dtype) const;

  Linear Replicated(std::string_view name, int64_t out, int64_t in, Bias bias = Bias::kYes);
  // Column-parallel: this shard's rows of the weight and of the bias. `unit` outputs stay together
  // (a head).
  Linear SplitOutputs(std::string_view name, int64_t out, int64_t in, int64_t unit = 1,
                      Bias bias = Bias::kYes);
  // Row-parallel: this shard's columns of the weight; the bias whole.
  RowLinear SplitInputs(std::string_view name, int64_t out, int64_t in, int64_t unit = 1,
                        Bias bias = Bias::kYes);
  Tensor Raw(std::string_view name, const std::vector<int64_t>& shape);
  // This shard's part of dim `dim`, `unit` entries of which stay together.
  Tensor RawSlice(std::string_view name, const std::vector<int64_t>& shape, int64_t dim,
                  int64_t unit);

  bool Has(std::string_view name) const;
  // As stored; empty if there is no such tensor.
  std::vector<int64_t> ShapeOf(std::string_view name) const;
  // Tensors under this scope (or this very name) are known and not wanted here: a later stage's
  // blocks, an encoder.
  void Skip(std::string_view scope);
  // A mistake found by the network itself (a config that makes no sense of these tensors).
  void Fail(std::string message);

  const ReadOptions& options() const;
  int64_t bytes_read() const;  // Bytes of the tensors handed out, as stored on the device.

  // OK, or INVALID_ARGUMENT that lists everything, one a line.
  absl::Status Finish() const;

 private:
  struct State;
  struct Part;
  WeightReader(std::shared_ptr<State> state, std::string scope, at::ScalarType dtype);
  std::string FullName(std::string_view name) const;
  Tensor Get(std::string_view name, const std::vector<int64_t>& shape, const Part& part);
  Part ShareOfDim(std::string_view name, const std::vector<int64_t>& shape, int64_t dim,
                  int64_t unit);

  std::shared_ptr<State> state_;
  std::string scope_;
  at::ScalarType dtype_;
};

}  // namespace patchflow
