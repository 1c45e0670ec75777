#include "parallel/ring.h"

#include <ATen/ATen.h>

#include <vector>

#include "engine/attention_merge.h"
#include "parallel/wide_copy.h"

namespace patchflow {
namespace {

Tensor Dense(const Tensor& x) {
  if (x.is_contiguous()) return x;
  const Tensor dense = at::empty(x.sizes(), x.options());
  CopyWide(dense, x);
  return dense;
}

}  // namespace

Tensor RingAttention::Attend(const AttentionInput& in) {
  KeysAndValues held = {Dense(in.k_BSHD), Dense(in.v_BSHD)};
  AttentionMerger merger(in.q_BSHD, in.images, axis_.size());
  for (int hop = 0; hop < axis_.size(); ++hop) {
    KeysAndValues next;
    Pending arrival;
    if (hop + 1 < axis_.size()) {
      next = Allocate(held, hop + 1);
      arrival = PassOn(held, next);
    }
    merger.Add(SdpaWithLse(in.q_BSHD, held.k_BTHD, held.v_BTHD));
    arrival.Wait();
    held = next;
  }
  return merger.Result();
}

RingAttention::KeysAndValues RingAttention::Allocate(const KeysAndValues& like, int hops) const {
  const int source = (axis_.rank() - hops + axis_.size()) % axis_.size();
  std::vector<int64_t> sizes = like.k_BTHD.sizes().vec();
  sizes[1] = key_counts_[source];
  return {at::empty(sizes, like.k_BTHD.options()), at::empty(sizes, like.v_BTHD.options())};
}

Pending RingAttention::PassOn(const KeysAndValues& held, const KeysAndValues& next) {
  using Kind = Communicator::Transfer::Kind;
  const int to = (axis_.rank() + 1) % axis_.size();
  const int from = (axis_.rank() - 1 + axis_.size()) % axis_.size();
  return axis_.Grouped({{Kind::kSend, held.k_BTHD, to},
                        {Kind::kRecv, next.k_BTHD, from},
                        {Kind::kSend, held.v_BTHD, to},
                        {Kind::kRecv, next.v_BTHD, from}});
}

}  // namespace patchflow
