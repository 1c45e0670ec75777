#include "engine/attention_merge.h"

#include <ATen/ATen.h>

#ifdef PATCHFLOW_CUDA
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include "engine/kernels/merge_attention.h"
#endif

namespace patchflow {
namespace {

bool MergesAtOnce([[maybe_unused]] const Tensor& q_BSHD, [[maybe_unused]] int parts) {
#ifdef PATCHFLOW_CUDA
  return q_BSHD.is_cuda() && q_BSHD.scalar_type() == at::kBFloat16 && q_BSHD.size(3) % 8 == 0 &&
         q_BSHD.numel() > 0 && parts <= kMergeAttentionMostParts;
#else
  return false;
#endif
}

Tensor MergeAtOnce([[maybe_unused]] const std::vector<AttentionPart>& parts) {
#ifdef PATCHFLOW_CUDA
  const Tensor& like = parts.front().o_BSHD;
  MergeAttentionArgs args;
  std::vector<Tensor> lse;
  for (const AttentionPart& part : parts) {
    lse.push_back(part.lse_BHS.contiguous());
    args.o[args.parts] = part.o_BSHD.const_data_ptr();
    args.lse[args.parts] = lse.back().const_data_ptr<float>();
    ++args.parts;
  }
  const Tensor out_BSHD = at::empty(like.sizes(), like.options());
  args.batch = static_cast<int>(like.size(0));
  args.queries = static_cast<int>(like.size(1));
  args.heads = static_cast<int>(like.size(2));
  args.head_size = static_cast<int>(like.size(3));
  args.out = out_BSHD.mutable_data_ptr();
  args.out_batch_stride = out_BSHD.stride(0);
  C10_CUDA_CHECK(LaunchMergeAttention(args, at::cuda::getCurrentCUDAStream()));
  return out_BSHD;
#else
  TORCH_CHECK(false, "parts of attention merged at once: not in this build");
#endif
}

}  // namespace

AttentionMerger::AttentionMerger(const Tensor& q_BSHD, int64_t images, int parts)
    : dtype_(q_BSHD.scalar_type()),
      at_once_(MergesAtOnce(q_BSHD, parts)),
      merged_(q_BSHD.is_cpu() ? images : 1) {}

void AttentionMerger::Add(const AttentionPart& part) {
  if (at_once_) {
    parts_.push_back(part);
    return;
  }
  if (images() == 1) return Merge(merged_[0], part);
  for (int64_t image = 0; image < images(); ++image) {
    Merge(merged_[image], {Of(image, part.o_BSHD), Of(image, part.lse_BHS)});
  }
}

Tensor AttentionMerger::Result() const {
  if (at_once_) return MergeAtOnce(parts_);
  if (images() == 1) return merged_[0].o_BSHD.to(dtype_);
  std::vector<Tensor> rows;
  for (const Merged& one : merged_) rows.push_back(one.o_BSHD);
  return at::stack(rows, 1).flatten(0, 1).to(dtype_);
}

void AttentionMerger::Merge(Merged& merged, const AttentionPart& part) {
  if (!merged.o_BSHD.defined()) {
    merged = {part.o_BSHD.to(at::kFloat), part.lse_BHS};
    return;
  }
  const Tensor weight_BSH1 =
      at::sigmoid(part.lse_BHS - merged.lse_BHS).transpose(1, 2).unsqueeze(3);
  merged.o_BSHD = at::lerp(merged.o_BSHD, part.o_BSHD.to(at::kFloat), weight_BSH1);
  merged.lse_BHS = at::logaddexp(merged.lse_BHS, part.lse_BHS);
}

Tensor AttentionMerger::Of(int64_t image, const Tensor& x_B) const {
  return x_B.unflatten(0, {-1, images()}).select(1, image).contiguous();
}

}  // namespace patchflow
