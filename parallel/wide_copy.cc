#include "parallel/wide_copy.h"

#include <ATen/ATen.h>

#include <cstdint>

namespace patchflow {
namespace {

constexpr int64_t kBytes = 16;
constexpr at::ScalarType kWide = at::kComplexDouble;

bool CanBeWide(const Tensor& x) {
  const auto whole = [bytes = x.element_size()](int64_t numbers) {
    return numbers * bytes % kBytes == 0;
  };
  bool fits = x.dim() > 0 && x.numel() > 0 && x.stride(-1) == 1 && whole(x.size(-1)) &&
              whole(x.storage_offset()) &&
              reinterpret_cast<uintptr_t>(x.const_data_ptr()) % kBytes == 0;
  for (int64_t dim = 0; fits && dim + 1 < x.dim(); ++dim) {
    fits = whole(x.stride(dim));
  }
  return fits;
}

}  // namespace

void CopyWide(const Tensor& to, const Tensor& from) {
  TORCH_CHECK(to.scalar_type() == from.scalar_type(), "copy of ", from.scalar_type(), " to ",
              to.scalar_type());
  if (CanBeWide(to) && CanBeWide(from)) {
    to.view(kWide).copy_(from.view(kWide));
  } else {
    to.copy_(from);
  }
}

}  // namespace patchflow
