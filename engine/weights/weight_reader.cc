#include "engine/weights/weight_reader.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/weights/checkpoint_files.h"

namespace patchflow {
namespace {

std::string Shown(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

bool CanBeRead(at::ScalarType stored) {
  return stored == at::kFloat || stored == at::kHalf || stored == at::kBFloat16 ||
         stored == at::kDouble;
}

// The file's own pages, which live as long as the tensor.
Tensor Mapped(const LocatedTensor& located) {
  const StoredTensor& stored = *located.stored;
  const auto options = at::TensorOptions().dtype(stored.dtype);
  if (reinterpret_cast<uintptr_t>(stored.data) % c10::elementSize(stored.dtype) != 0) {
    Tensor aligned = at::empty(stored.shape, options);
    std::memcpy(aligned.mutable_data_ptr(), stored.data, stored.bytes);
    return aligned;
  }
  return at::from_blob(
      stored.data, stored.shape, [file = located.file](void*) {}, options);
}

// Moves before it converts: a device converts faster than the host does.
Tensor Placed(const Tensor& slice, at::Device device, at::ScalarType dtype) {
  if (!device.is_cpu()) return slice.to(device).to(dtype);
  return slice.to(dtype).contiguous();
}

}  // namespace

UnitRange ShareOf(int64_t total_units, TensorShard shard) {
  const int64_t base = total_units / shard.count;
  const int64_t larger = total_units % shard.count;
  const int64_t begin = shard.index * base + std::min<int64_t>(shard.index, larger);
  return {begin, begin + base + (shard.index < larger ? 1 : 0)};
}

Tensor Linear::operator()(const Tensor& x) const { return at::linear(x, weight_OI, bias_O); }

Tensor RowLinear::operator()(const Tensor& x, PartialSum& tensor_axis) const {
  if (whole) return at::linear(x, weight_OI, bias_O);
  Tensor sum = tensor_axis.Complete(at::linear(x, weight_OI));
  return bias_O.defined() ? sum.add_(bias_O) : sum;
}

struct WeightReader::State {
  std::string dir;
  ReadOptions options;
  TensorTable table;
  std::set<std::string, std::less<>> known;  // Handed out, refused or skipped.
  std::vector<std::string> errors;
  int64_t bytes_read = 0;
};

// Entries [begin, begin + size) of one dim; size -1 is the whole tensor.
struct WeightReader::Part {
  int64_t dim = 0;
  int64_t begin = 0;
  int64_t size = -1;
};

WeightReader::WeightReader(std::shared_ptr<State> state, std::string scope, at::ScalarType dtype)
    : state_(std::move(state)), scope_(std::move(scope)), dtype_(dtype) {}

absl::StatusOr<WeightReader> WeightReader::Open(const std::filesystem::path& component_dir,
                                                const ReadOptions& options) {
  absl::StatusOr<TensorTable> table = OpenCheckpoint(component_dir);
  if (!table.ok()) return table.status();
  auto state = std::make_shared<State>();
  state->dir = component_dir.string();
  state->options = options;
  state->table = *std::move(table);
  return WeightReader(std::move(state), "", options.dtype);
}

WeightReader WeightReader::In(std::string_view scope) const {
  return {state_, FullName(scope), dtype_};
}

WeightReader WeightReader::As(at::ScalarType dtype) const { return {state_, scope_, dtype}; }

std::string WeightReader::FullName(std::string_view name) const {
  if (scope_.empty()) return std::string(name);
  return name.empty() ? scope_ : absl::StrCat(scope_, ".", std::string(name));
}

Tensor WeightReader::Get(std::string_view name, const std::vector<int64_t>& shape,
                         const Part& part) {
  const std::string full = FullName(name);
  const auto found = state_->table.find(full);
  if (found == state_->table.end()) {
    Fail(absl::StrCat("missing: ", full, " ", Shown(shape)));
    return {};
  }
  state_->known.insert(full);
  const StoredTensor& stored = *found->second.stored;
  if (stored.shape != shape) {
    Fail(absl::StrCat("misshapen: ", full, " is ", Shown(stored.shape), ", not ", Shown(shape)));
    return {};
  }
  if (!CanBeRead(stored.dtype)) {
    Fail(absl::StrCat("not a float: ", full, " is stored as ", c10::toString(stored.dtype)));
    return {};
  }
  Tensor slice = Mapped(found->second);
  if (part.size >= 0) slice = slice.narrow(part.dim, part.begin, part.size);
  Tensor out = Placed(slice, state_->options.device, dtype_);
  state_->bytes_read += static_cast<int64_t>(out.nbytes());
  return out;
}

WeightReader::Part WeightReader::ShareOfDim(std::string_view name,
                                            const std::vector<int64_t>& shape, int64_t dim,
                                            int64_t unit) {
  if (unit < 1 || shape[dim] % unit != 0) {
    Fail(absl::StrCat("cannot be split: ", FullName(name), " ", Shown(shape), " along dim ", dim,
                      " into units of ", unit));
    return {};
  }
  const UnitRange units = ShareOf(shape[dim] / unit, state_->options.shard);
  return {dim, units.begin * unit, units.size() * unit};
}

Linear WeightReader::Replicated(std::string_view name, int64_t out, int64_t in, Bias bias) {
  WeightReader here = In(name);
  Linear layer{here.Raw("weight", {out, in}), {}};
  if (bias == Bias::kYes) layer.bias_O = here.Raw("bias", {out});
  return layer;
}

Linear WeightReader::SplitOutputs(std::string_view name, int64_t out, int64_t in, int64_t unit,
                                  Bias bias) {
  WeightReader here = In(name);
  Linear layer{here.RawSlice("weight", {out, in}, /*dim=*/0, unit), {}};
  if (bias == Bias::kYes) layer.bias_O = here.RawSlice("bias", {out}, /*dim=*/0, unit);
  return layer;
}

RowLinear WeightReader::SplitInputs(std::string_view name, int64_t out, int64_t in, int64_t unit,
                                    Bias bias) {
  WeightReader here = In(name);
  RowLinear layer{.weight_OI = here.RawSlice("weight", {out, in}, /*dim=*/1, unit),
                  .bias_O = {},
                  .whole = state_->options.shard.count == 1};
  if (bias == Bias::kYes) layer.bias_O = here.Raw("bias", {out});
  return layer;
}

Tensor WeightReader::Raw(std::string_view name, const std::vector<int64_t>& shape) {
  return Get(name, shape, Part{});
}

Tensor WeightReader::RawSlice(std::string_view name, const std::vector<int64_t>& shape, int64_t dim,
                              int64_t unit) {
  return Get(name, shape, ShareOfDim(name, shape, dim, unit));
}

bool WeightReader::Has(std::string_view name) const {
  return state_->table.contains(FullName(name));
}

std::vector<int64_t> WeightReader::ShapeOf(std::string_view name) const {
  const auto found = state_->table.find(FullName(name));
  return found == state_->table.end() ? std::vector<int64_t>() : found->second.stored->shape;
}

void WeightReader::Skip(std::string_view scope) {
  const std::string full = FullName(scope);
  const std::string prefix = full.empty() ? "" : full + ".";
  for (const auto& [name, located] : state_->table) {
    if (name == full || name.starts_with(prefix)) state_->known.insert(name);
  }
}

void WeightReader::Fail(std::string message) { state_->errors.push_back(std::move(message)); }

const ReadOptions& WeightReader::options() const { return state_->options; }

int64_t WeightReader::bytes_read() const { return state_->bytes_read; }

absl::Status WeightReader::Finish() const {
  std::vector<std::string> lines = state_->errors;
  for (const auto& [name, located] : state_->table) {
    if (!state_->known.contains(name)) {
      lines.push_back(absl::StrCat("unread: ", name, " ", Shown(located.stored->shape), " of ",
                                   located.file->path().filename().string()));
    }
  }
  if (lines.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      state_->dir, ": the weights are not those of this network:\n", absl::StrJoin(lines, "\n")));
}

}  // namespace patchflow
