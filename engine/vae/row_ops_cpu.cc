#include "engine/vae/row_ops_cpu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace patchflow {
namespace {

constexpr int64_t kElementsPerTask = 32768;

int64_t RowsPerTask(const Tensor& rows_hWC) {
  return std::max<int64_t>(1, kElementsPerTask / (rows_hWC.size(1) * rows_hWC.size(2)));
}

struct Affine {
  std::vector<float> scale_C;
  std::vector<float> shift_C;
};

Affine AffineOf(const GroupNorm& norm, const GroupMoments& moments) {
  const int64_t channels = norm.gamma_C.numel();
  const int64_t per_group = channels / norm.groups;
  Affine affine{std::vector<float>(channels), std::vector<float>(channels)};
  const auto* gamma = norm.gamma_C.const_data_ptr<float>();
  const auto* beta = norm.beta_C.const_data_ptr<float>();
  const auto* mean = moments.mean_BG.const_data_ptr<float>();
  const auto* m2 = moments.m2_BG.const_data_ptr<float>();
  for (int64_t c = 0; c < channels; ++c) {
    const int64_t group = c / per_group;
    const double deviation = std::sqrt(m2[group] / moments.count + kGroupNormEpsilon);
    const double scale = gamma[c] / deviation;
    affine.scale_C[c] = static_cast<float>(scale);
    affine.shift_C[c] = static_cast<float>(beta[c] - mean[group] * scale);
  }
  return affine;
}

// One row of a store: where its pixels come from and go to.
struct StoreRow {
  const float* from;
  int64_t
      from_step;  // Elements between pixels of even columns (kPhases) or of all columns (kSame).
  int64_t odd_offset;  // Of odd columns from the even column before them.
  float* to;
  int64_t width;
  int64_t channels;

  const float* Pixel(int64_t x, PixelOrder order) const {
    return order == PixelOrder::kSame ? from + x * from_step
                                      : from + (x >> 1) * from_step + (x & 1) * odd_offset;
  }
};

StoreRow RowOf(const RowStore& store, int64_t y) {
  const int64_t channels = store.to_hWC.size(2);
  const auto* from = store.from.const_data_ptr<float>();
  auto* to = store.to_hWC.mutable_data_ptr<float>() + y * store.to_hWC.stride(0);
  const int64_t from_row = store.from.stride(0);
  const int64_t from_pixel = store.from.stride(1);
  if (store.order == PixelOrder::kSame) {
    return {from + y * from_row, from_pixel, 0, to, store.to_hWC.size(1), channels};
  }
  const int64_t odd = y & 1;
  return {from + (y / 2 + odd) * from_row + odd * 2 * channels,
          from_pixel,
          from_pixel + channels,
          to,
          store.to_hWC.size(1),
          channels};
}

void StorePixels(const StoreRow& row, const float* bias, PixelOrder order, StoreMode mode) {
  for (int64_t x = 0; x < row.width; ++x) {
    const float* __restrict__ from = row.Pixel(x, order);
    float* __restrict__ to = row.to + x * row.channels;
    if (mode == StoreMode::kAdd) {
      for (int64_t c = 0; c < row.channels; ++c) to[c] += from[c] + bias[c];
    } else {
      for (int64_t c = 0; c < row.channels; ++c) to[c] = from[c] + bias[c];
    }
  }
}

// Sums of differences from the first pixel: no cancellation, whatever the mean.
struct ChannelSums {
  explicit ChannelSums(int64_t channels) : pivot(channels), first(channels), second(channels) {}
  std::vector<float> pivot;
  std::vector<float> first;
  std::vector<float> second;

  void Sum(const float* pixels, int64_t width) {
    const auto channels = static_cast<int64_t>(pivot.size());
    std::copy_n(pixels, channels, pivot.begin());
    std::fill(first.begin(), first.end(), 0.0F);
    std::fill(second.begin(), second.end(), 0.0F);
    const float* __restrict__ p = pivot.data();
    float* __restrict__ s1 = first.data();
    float* __restrict__ s2 = second.data();
    for (int64_t x = 1; x < width; ++x) {
      const float* __restrict__ pixel = pixels + x * channels;
      for (int64_t c = 0; c < channels; ++c) {
        const float difference = pixel[c] - p[c];
        s1[c] += difference;
        s2[c] += difference * difference;
      }
    }
  }
};

struct GroupPart {
  double mean = 0;
  double m2 = 0;
};

// Equal counts: of `parts` with `count` elements each.
template <typename PartAt>
GroupPart MergeEqual(int64_t parts, double count, PartAt part_at) {
  GroupPart merged;
  for (int64_t i = 0; i < parts; ++i) {
    merged.mean += part_at(i).mean / static_cast<double>(parts);
  }
  for (int64_t i = 0; i < parts; ++i) {
    const GroupPart part = part_at(i);
    const double difference = part.mean - merged.mean;
    merged.m2 += part.m2 + count * difference * difference;
  }
  return merged;
}

void GroupParts(const ChannelSums& sums, int64_t width, int64_t groups, GroupPart* parts) {
  const auto channels = static_cast<int64_t>(sums.pivot.size());
  const int64_t per_group = channels / groups;
  const auto count = static_cast<double>(width);
  for (int64_t g = 0; g < groups; ++g) {
    parts[g] = MergeEqual(per_group, count, [&](int64_t i) {
      const int64_t c = g * per_group + i;
      const double first = sums.first[c];
      return GroupPart{sums.pivot[c] + first / count,
                       std::max(0.0, sums.second[c] - first * first / count)};
    });
  }
}

void MergeInto(GroupMoments& moments, const std::vector<GroupPart>& parts_hG, int64_t rows,
               double row_count) {
  const int64_t groups = moments.mean_BG.size(1);
  auto* mean = moments.mean_BG.mutable_data_ptr<float>();
  auto* m2 = moments.m2_BG.mutable_data_ptr<float>();
  const double added = row_count * static_cast<double>(rows);
  const double total = moments.count + added;
  for (int64_t g = 0; g < groups; ++g) {
    const GroupPart part =
        MergeEqual(rows, row_count, [&](int64_t y) { return parts_hG[y * groups + g]; });
    const double difference = part.mean - mean[g];
    m2[g] = static_cast<float>(m2[g] + part.m2 +
                               difference * difference * moments.count * added / total);
    mean[g] = static_cast<float>(mean[g] + difference * added / total);
  }
  moments.count = total;
}

}  // namespace

void NormalizeRowsOnCpu(const GroupNorm& norm, const GroupMoments& moments, Activation activation,
                        const Tensor& x_hWC, const Tensor& out_hWC) {
  const Affine affine = AffineOf(norm, moments);
  const int64_t width = x_hWC.size(1);
  const int64_t channels = x_hWC.size(2);
  const auto* x = x_hWC.const_data_ptr<float>();
  auto* out = out_hWC.mutable_data_ptr<float>();
  at::parallel_for(0, x_hWC.size(0), RowsPerTask(x_hWC), [&](int64_t begin, int64_t end) {
    const float* scale = affine.scale_C.data();
    const float* shift = affine.shift_C.data();
    for (int64_t y = begin; y < end; ++y) {
      for (int64_t i = 0; i < width; ++i) {
        const float* __restrict__ from = x + y * x_hWC.stride(0) + i * channels;
        float* __restrict__ to = out + (y * width + i) * channels;
        for (int64_t c = 0; c < channels; ++c) to[c] = from[c] * scale[c] + shift[c];
      }
    }
  });
  if (activation == Activation::kSilu) {
    Tensor rows = out_hWC;
    at::silu_(rows);
  }
}

void StoreRowsOnCpu(const RowStore& store, GroupMoments* moments) {
  const int64_t h = store.to_hWC.size(0);
  const int64_t width = store.to_hWC.size(1);
  const int64_t channels = store.to_hWC.size(2);
  const int64_t groups = moments == nullptr ? 0 : moments->mean_BG.size(1);
  const auto* bias = store.bias_C.const_data_ptr<float>();
  std::vector<GroupPart> parts_hG(h * groups);
  at::parallel_for(0, h, RowsPerTask(store.to_hWC), [&](int64_t begin, int64_t end) {
    ChannelSums sums(channels);
    for (int64_t y = begin; y < end; ++y) {
      const StoreRow row = RowOf(store, y);
      StorePixels(row, bias, store.order, store.mode);
      if (groups > 0) {
        sums.Sum(row.to, width);
        GroupParts(sums, width, groups, &parts_hG[y * groups]);
      }
    }
  });
  if (groups > 0) {
    MergeInto(*moments, parts_hG, h, static_cast<double>(width * channels / groups));
  }
}

}  // namespace patchflow
