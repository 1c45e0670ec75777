#include "parallel/ring.h"

#include <ATen/ATen.h>

#include <vector>

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

// Merges each image of a batch as if it were alone. See ByImage().
class Merging {
 public:
  Merging(const Tensor& like, int64_t images) : merged_(like.is_cpu() ? images : 1) {}

  void Add(const AttentionPart& part) {
    if (merged_.size() == 1) return Merge(merged_[0], part);
    for (int64_t n = 0; n < images(); ++n) {
      Merge(merged_[n], {Of(n, part.o_BSHD), Of(n, part.lse_BHS)});
    }
  }

  Tensor Result() const {
    if (merged_.size() == 1) return merged_[0].o_BSHD;
    std::vector<Tensor> parts;
    for (const Merged& one : merged_) parts.push_back(one.o_BSHD);
    return at::stack(parts, 1).flatten(0, 1);
  }

 private:
  int64_t images() const { return static_cast<int64_t>(merged_.size()); }
  Tensor Of(int64_t n, const Tensor& x_B) const {
    return x_B.unflatten(0, {-1, images()}).select(1, n).contiguous();
  }

  std::vector<Merged> merged_;  // By image.
};

}  // namespace

Tensor RingAttention::Attend(const AttentionInput& in) {
  KeysAndValues held = {in.k_BSHD.contiguous(), in.v_BSHD.contiguous()};
  Merging merging(in.q_BSHD, in.images);
  for (int hop = 0; hop < axis_.size(); ++hop) {
    KeysAndValues next;
    Pending arrival;
    if (hop + 1 < axis_.size()) {
      next = Allocate(held, hop + 1);
      arrival = PassOn(held, next);
    }
    merging.Add(SdpaWithLse(in.q_BSHD, held.k_BTHD, held.v_BTHD));
    arrival.Wait();
    held = next;
  }
  return merging.Result().to(in.q_BSHD.scalar_type());
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
