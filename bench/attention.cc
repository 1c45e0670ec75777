// Self-attention at PixArt-XL/2's shape (16 heads of 72, batch of two): our kernel against cuDNN's
// and FlashAttention-2's, true floating-point operations over the median time.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <vector>

#include "engine/kernels/attention_sm90.h"

namespace patchflow {
namespace {

using at::Tensor;

double MedianMs(const std::function<void()>& run, int repeats) {
  for (int i = 0; i < 3; ++i) {
    run();
  }
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    at::cuda::CUDAEvent begin(cudaEventDefault);
    at::cuda::CUDAEvent end(cudaEventDefault);
    begin.record();
    run();
    end.record();
    end.synchronize();
    times.push_back(begin.elapsed_time(end));
  }
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return times[repeats / 2];
}

void RunOwn(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o) {
  AttentionSm90Args args;
  const auto operand = [](const Tensor& x) {
    return AttentionOperand{x.data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
  };
  args.q = operand(q);
  args.k = operand(k);
  args.v = operand(v);
  args.o = o.data_ptr();
  args.batch = static_cast<int>(q.size(0));
  args.heads = static_cast<int>(q.size(2));
  args.queries = static_cast<int>(q.size(1));
  args.keys = static_cast<int>(k.size(1));
  args.scale = 1.0F / std::sqrt(72.0F);
  C10_CUDA_CHECK(LaunchAttentionSm90(args, at::cuda::getCurrentCUDAStream()));
}

void Row(int64_t batch, int64_t queries, int64_t keys) {
  const auto options = at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16);
  const Tensor q = at::randn({batch, queries, 16, 72}, options);
  const Tensor k = at::randn({batch, keys, 16, 72}, options);
  const Tensor v = at::randn({batch, keys, 16, 72}, options);
  const Tensor o = at::empty_like(q);
  const Tensor qt = q.transpose(1, 2);
  const Tensor kt = k.transpose(1, 2);
  const Tensor vt = v.transpose(1, 2);
  const double flop = 4.0 * batch * queries * keys * 16 * 72;
  const int repeats = keys > 20000 ? 7 : 20;
  const auto rate = [&](const std::function<void()>& run) {
    return flop / MedianMs(run, repeats) / 1e9;
  };
  const double own = rate([&] { RunOwn(q, k, v, o); });
  const double cudnn = rate([&] {
    at::_scaled_dot_product_cudnn_attention(qt, kt, vt, {}, /*compute_log_sumexp=*/false);
  });
  const double flash = rate([&] { at::_scaled_dot_product_flash_attention(qt, kt, vt); });
  std::printf("| %4ld | %7ld | %7ld | %6.0f | %6.0f | %6.0f | %5.2f |\n", batch, queries, keys, own,
              cudnn, flash, own / std::max(cudnn, flash));
}

}  // namespace
}  // namespace patchflow

int main() {
  const c10::InferenceMode inference;
  std::printf("%s, bfloat16, 16 heads of 72; TFLOP/s\n",
              at::cuda::getCurrentDeviceProperties()->name);
  std::printf("| batch | queries | keys | ours | cuDNN | FlashAttention-2 | ours/best |\n");
  std::printf("|---|---|---|---|---|---|---|\n");
  for (const int64_t tokens : {1024, 4096, 16384}) {
    patchflow::Row(2, tokens, tokens);
  }
  patchflow::Row(1, 65536, 65536);
  patchflow::Row(2, 1024, 4096);
  patchflow::Row(2, 2048, 16384);
  return 0;
}
