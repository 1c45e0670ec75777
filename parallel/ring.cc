#include "parallel/ring.h"

#include <ATen/ATen.h>

#include "engine/attention.h"

namespace patchflow {
namespace {

struct Merged {
  Tensor o_BSHD;  // float32
  Tensor lse_BHS;
};

void Merge(Merged& merged, const AttentionPart& part) {
  if (!merged.o_BSHD.defined()) {
    merged = {part.o_BSHD.to(at::kFloat), part.lse_BHS};
    return;
  }
  const Tensor weight_BSH1 =
      at::sigmoid(part.lse_BHS - merged.lse_BHS).transpose(1, 2).unsqueeze(3);
  merged.o_BSHD = at::lerp(merged.o_BSHD, part.o_BSHD.to(at::kFloat), weight_BSH1);
  merged.lse_BHS = at::logaddexp(merged.lse_BHS, part.lse_BHS);
}

}  // namespace

Tensor RingAttention::Attend(const AttentionInput& in) {
  KeysAndValues held = {in.k_BSHD.contiguous(), in.v_BSHD.contiguous()};
  Merged merged;
  for (int hop = 0; hop < axis_.size(); ++hop) {
    KeysAndValues next;
    Pending arrival;
    if (hop + 1 < axis_.size()) {
      next = Allocate(held, hop + 1);
      arrival = PassOn(held, next);
    }
    Merge(merged, SdpaWithLse(in.q_BSHD, held.k_BTHD, held.v_BTHD));
    arrival.Wait();
    held = next;
  }
  return merged.o_BSHD.to(in.q_BSHD.scalar_type());
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
