#include "engine/attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>

#include "engine/attention_cpu.h"
#ifdef PATCHFLOW_CUDA
#include "engine/attention_sm90.h"
#endif

namespace patchflow {
namespace {

constexpr int64_t kCudnnMaxHeadSize = 128;
constexpr int64_t kSm90HeadSize = 72;
constexpr int64_t kBiasAlignment = 16;

struct Call {
  Tensor q_BHSD;
  Tensor k_BHTD;
  Tensor v_BHTD;
  std::optional<Tensor> bias_BHST;
  double scale = 0;
  bool with_lse = false;
};

AttentionPart RunCpuFlash(const Call& call) {
  auto [o_BHSD, lse_BHS] = at::_scaled_dot_product_flash_attention_for_cpu(
      call.q_BHSD, call.k_BHTD, call.v_BHTD, 0.0, false, call.bias_BHST, call.scale);
  return {o_BHSD, lse_BHS};
}

AttentionPart RunCudnn(const Call& call) {
  auto result =
      at::_scaled_dot_product_cudnn_attention(call.q_BHSD, call.k_BHTD, call.v_BHTD, call.bias_BHST,
                                              call.with_lse, 0.0, false, false, call.scale);
  return {std::get<0>(result), std::get<1>(result)};
}

AttentionPart RunMemoryEfficient(const Call& call) {
  std::optional<Tensor> bias_BHST;
  if (call.bias_BHST) {
    bias_BHST = AlignBias(*call.bias_BHST)
                    .expand({call.q_BHSD.size(0), call.q_BHSD.size(1), call.q_BHSD.size(2),
                             call.k_BHTD.size(2)});
  }
  auto result = at::_scaled_dot_product_efficient_attention(
      call.q_BHSD, call.k_BHTD, call.v_BHTD, bias_BHST, call.with_lse, 0.0, false, call.scale);
  return {std::get<0>(result), std::get<1>(result)};
}

AttentionPart RunMath(const Call& call) {
  const Tensor scaled_q = call.q_BHSD.to(at::kFloat) * call.scale;
  Tensor scores_BHST = at::matmul(scaled_q, call.k_BHTD.to(at::kFloat).transpose(-2, -1));
  if (call.bias_BHST) {
    scores_BHST.add_(*call.bias_BHST);
  }
  AttentionPart part;
  if (call.with_lse) {
    part.lse_BHS = at::logsumexp(scores_BHST, {-1});
  }
  part.o_BSHD = at::matmul(at::softmax(scores_BHST, -1).to(call.v_BHTD.scalar_type()), call.v_BHTD);
  return part;
}

AttentionPart RunStock(AttentionKernel kernel, const Call& call) {
  switch (kernel) {
    case AttentionKernel::kCpuFlash:
      return RunCpuFlash(call);
    case AttentionKernel::kCudnn:
      return RunCudnn(call);
    case AttentionKernel::kMemoryEfficient:
      return RunMemoryEfficient(call);
    case AttentionKernel::kCpuTiles:
    case AttentionKernel::kSm90:
    case AttentionKernel::kMath:
      break;
  }
  return RunMath(call);
}

AttentionPart RunSm90([[maybe_unused]] const Call& call) {
#ifdef PATCHFLOW_CUDA
  const auto tokens_first = [](const Tensor& x) { return x.transpose(1, 2); };
  return AttendSm90(tokens_first(call.q_BHSD), tokens_first(call.k_BHTD), tokens_first(call.v_BHTD),
                    call.bias_BHST.value_or(Tensor()), call.scale, call.with_lse);
#else
  TORCH_CHECK(false, "attention by sm90: not in this build");
#endif
}

// A tensor shard without heads, a rank without queries.
AttentionPart NothingToAttend(const Tensor& q_BSHD) {
  const Tensor lse_BHS =
      at::full({q_BSHD.size(0), q_BSHD.size(2), q_BSHD.size(1)},
               -std::numeric_limits<float>::infinity(), q_BSHD.options().dtype(at::kFloat));
  return {at::zeros_like(q_BSHD, at::MemoryFormat::Contiguous), lse_BHS};
}

AttentionPart Attend(AttentionKernel kernel, const Tensor& q_BSHD, const Tensor& k_BTHD,
                     const Tensor& v_BTHD, const Tensor& bias, double scale, bool with_lse) {
  if (q_BSHD.numel() == 0 || k_BTHD.numel() == 0) {
    return NothingToAttend(q_BSHD);
  }
  Call call{q_BSHD.transpose(1, 2),
            k_BTHD.transpose(1, 2),
            v_BTHD.transpose(1, 2),
            std::nullopt,
            scale != 0 ? scale : 1.0 / std::sqrt(static_cast<double>(q_BSHD.size(3))),
            with_lse};
  if (bias.defined()) {
    call.bias_BHST = bias;
  }
  if (kernel == AttentionKernel::kSm90) {
    return RunSm90(call);
  }
  if (kernel == AttentionKernel::kCpuTiles) {
    const CpuKernels* const kernels = CpuKernelsHere();
    TORCH_CHECK(kernels != nullptr && !bias.defined(), "attention by cpu-tiles: ",
                bias.defined() ? "takes no bias" : "not for this processor");
    return AttendCpuTiles(*kernels, q_BSHD, k_BTHD, v_BTHD, call.scale, with_lse);
  }
  AttentionPart part = RunStock(kernel, call);
  part.o_BSHD = part.o_BSHD.transpose(1, 2).contiguous();
  if (with_lse) {  // Kernels pad its rows, or keep a dimension of one behind them.
    part.lse_BHS = part.lse_BHS.flatten(2).narrow(2, 0, q_BSHD.size(1));
  }
  return part;
}

bool HasOneBiasAKey(const Tensor& bias, const Tensor& k_BTHD) {
  return bias.defined() && bias.dim() == 4 && bias.size(1) == 1 && bias.size(2) == 1 &&
         bias.size(3) == k_BTHD.size(1) && bias.stride(3) == 1;
}

bool OnHopper([[maybe_unused]] const Tensor& x) {
#ifdef PATCHFLOW_CUDA
  return x.is_cuda() && IsHopper(x.device());
#else
  return false;
#endif
}

}  // namespace

Tensor AlignBias(const Tensor& bias) {
  const int64_t length = bias.size(-1);
  const auto row_strides = bias.strides().slice(0, bias.dim() - 1);
  const bool aligned = std::all_of(row_strides.begin(), row_strides.end(),
                                   [](int64_t stride) { return stride % kBiasAlignment == 0; });
  if (aligned && bias.stride(-1) == 1) {
    return bias;
  }
  const int64_t padded = (length + kBiasAlignment - 1) / kBiasAlignment * kBiasAlignment;
  return at::constant_pad_nd(bias, {0, padded - length}).contiguous().narrow(-1, 0, length);
}

AttentionShape AttentionShapeOf(const Tensor& q_BSHD, const Tensor& k_BTHD, const Tensor& bias) {
  return {.device = q_BSHD.device().type(),
          .dtype = q_BSHD.scalar_type(),
          .queries = q_BSHD.size(1),
          .keys = k_BTHD.size(1),
          .head_size = q_BSHD.size(3),
          .biased = bias.defined(),
          .one_bias_a_key = HasOneBiasAKey(bias, k_BTHD),
          .hopper = OnHopper(q_BSHD),
          .cpu_kernels = q_BSHD.is_cpu() && CpuKernelsHere() != nullptr};
}

AttentionKernel ChooseAttentionKernel(const AttentionShape& shape) {
  const bool half = shape.dtype == at::kHalf || shape.dtype == at::kBFloat16;
  if (shape.device == at::kCPU) {
    if (shape.cpu_kernels && shape.dtype == at::kFloat && !shape.biased &&
        shape.keys <= kCpuTilesMostKeys) {
      return AttentionKernel::kCpuTiles;
    }
    return AttentionKernel::kCpuFlash;
  }
  if (shape.hopper && shape.dtype == at::kBFloat16 && shape.head_size == kSm90HeadSize &&
      (!shape.biased || shape.one_bias_a_key)) {
    return AttentionKernel::kSm90;
  }
  // cuDNN refuses single keys.
  if (half && !shape.biased && shape.head_size % 8 == 0 && shape.head_size <= kCudnnMaxHeadSize &&
      shape.keys > 1) {
    return AttentionKernel::kCudnn;
  }
  if (shape.head_size % (half ? 8 : 4) == 0) {
    return AttentionKernel::kMemoryEfficient;
  }
  return AttentionKernel::kMath;
}

std::string_view NameOf(AttentionKernel kernel) {
  switch (kernel) {
    case AttentionKernel::kCpuTiles:
      return "cpu-tiles";
    case AttentionKernel::kCpuFlash:
      return "cpu-flash";
    case AttentionKernel::kSm90:
      return "sm90";
    case AttentionKernel::kCudnn:
      return "cudnn";
    case AttentionKernel::kMemoryEfficient:
      return "memory-efficient";
    case AttentionKernel::kMath:
      break;
  }
  return "math";
}

Tensor Sdpa(const Tensor& q_BSHD, const Tensor& k_BTHD, const Tensor& v_BTHD, const Tensor& bias,
            double scale) {
  const AttentionKernel kernel = ChooseAttentionKernel(AttentionShapeOf(q_BSHD, k_BTHD, bias));
  return SdpaBy(kernel, q_BSHD, k_BTHD, v_BTHD, bias, scale);
}

Tensor SdpaBy(AttentionKernel kernel, const Tensor& q_BSHD, const Tensor& k_BTHD,
              const Tensor& v_BTHD, const Tensor& bias, double scale) {
  return Attend(kernel, q_BSHD, k_BTHD, v_BTHD, bias, scale, false).o_BSHD;
}

AttentionPart SdpaWithLse(const Tensor& q_BSHD, const Tensor& k_BTHD, const Tensor& v_BTHD) {
  const AttentionKernel kernel = ChooseAttentionKernel(AttentionShapeOf(q_BSHD, k_BTHD));
  return Attend(kernel, q_BSHD, k_BTHD, v_BTHD, {}, 0, true);
}

}  // namespace patchflow
