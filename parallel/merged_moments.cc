#include "parallel/merged_moments.h"

#include <ATen/ATen.h>

#include <utility>

namespace patchflow {
namespace {

Tensor SharesOf(const std::vector<RowRange>& rows) {
  std::vector<float> shares;
  const auto all = static_cast<double>(rows.back().end);
  for (const RowRange& own : rows) {
    shares.push_back(static_cast<float>(static_cast<double>(own.size()) / all));
  }
  return at::tensor(shares).view({-1, 1, 1});
}

}  // namespace

MergedMoments::MergedMoments(Communicator& ranks, const std::vector<RowRange>& rows,
                             at::Device device, std::function<void()> merged)
    : ranks_(ranks),
      own_rows_(static_cast<double>(rows[ranks.rank()].size())),
      all_rows_(static_cast<double>(rows.back().end)),
      share_R11_(SharesOf(rows).to(device)),
      merged_(std::move(merged)) {}

GroupMoments MergedMoments::Merge(const GroupMoments& held_here) {
  const Tensor own_2BG = at::stack({held_here.mean_BG, held_here.m2_BG});
  const Tensor all_R2BG =
      at::empty({ranks_.size(), 2, own_2BG.size(1), own_2BG.size(2)}, own_2BG.options());
  ranks_.AllGather(own_2BG, all_R2BG).Wait();
  const Tensor mean_RBG = all_R2BG.select(1, 0);
  GroupMoments merged;
  merged.count = held_here.count / own_rows_ * all_rows_;
  merged.mean_BG = (mean_RBG * share_R11_).sum(0);
  const Tensor between_BG = ((mean_RBG - merged.mean_BG).square() * share_R11_).sum(0);
  merged.m2_BG = at::add(all_R2BG.select(1, 1).sum(0), between_BG, merged.count);
  if (merged_) merged_();
  return merged;
}

}  // namespace patchflow
