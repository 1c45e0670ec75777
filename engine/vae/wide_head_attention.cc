#include "engine/vae/wide_head_attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/attention.h"
#include "engine/vae/row_ops.h"
#include "engine/vae/softmax_tile.h"

namespace patchflow {
namespace {

constexpr int64_t kKeysPerTile = 8192;
constexpr int64_t kQueryMultiple = 128;  // Of matrix kernels' tiles.

int64_t Divided(int64_t total, int64_t most) {
  const int64_t parts = (total + most - 1) / most;
  return (total + parts - 1) / parts;
}

int64_t QueriesPerTile(const Tensor& q_SD, int64_t keys, int64_t workspace_bytes) {
  const int64_t probability_bytes =
      q_SD.scalar_type() == at::kFloat ? 0 : static_cast<int64_t>(q_SD.element_size());
  const int64_t score_bytes = static_cast<int64_t>(sizeof(float)) + probability_bytes;
  const int64_t sums = 2 * q_SD.size(1) + 4;  // This tile's and all tiles'; max, sum, correction.
  const int64_t row_bytes = keys * score_bytes + sums * static_cast<int64_t>(sizeof(float));
  const int64_t most =
      std::min(workspace_bytes / row_bytes, std::numeric_limits<int32_t>::max() / keys);
  TORCH_CHECK(most > 0, "workspace_bytes is ", workspace_bytes, ": a tile of one query needs ",
              row_bytes);
  const int64_t aligned = most >= kQueryMultiple ? most / kQueryMultiple * kQueryMultiple : most;
  return std::min(q_SD.size(0), aligned);
}

// In float32 whatever the operands are in.
void MultiplyInto(const Tensor& out, const Tensor& a, const Tensor& b) {
  Tensor target = out;
  if (a.scalar_type() == at::kFloat) {
    at::mm_out(target, a, b);
  } else {
    at::mm_out(target, a, b, at::kFloat);
  }
}

// Memory of one tile, reused by all.
struct Tile {
  Tile(int64_t queries, int64_t keys, const Tensor& like_SD)
      : scores(at::empty({queries * keys}, like_SD.options().dtype(at::kFloat))),
        probabilities(like_SD.scalar_type() == at::kFloat
                          ? scores
                          : at::empty({queries * keys}, like_SD.options())),
        product(at::empty({queries, like_SD.size(1)}, scores.options())),
        sums(at::empty({queries, like_SD.size(1)}, scores.options())),
        state(queries, like_SD.device()) {}

  Tensor scores;
  Tensor probabilities;
  Tensor product;
  Tensor sums;
  SoftmaxState state;
};

Tensor Matrix(const Tensor& elements, int64_t rows, int64_t columns) {
  return elements.narrow(0, 0, rows * columns).view({rows, columns});
}

void AttendQueries(const Tensor& q_SD, const Tensor& k_TD, const Tensor& v_TD,
                   int64_t keys_per_tile, Tile& tile, const Tensor& out_SD) {
  const int64_t queries = q_SD.size(0);
  const double scale = 1.0 / std::sqrt(static_cast<double>(q_SD.size(1)));
  const Tensor product = tile.product.narrow(0, 0, queries);
  Tensor sums = tile.sums.narrow(0, 0, queries);
  SoftmaxState state = tile.state.First(queries);
  state.Reset();
  sums.zero_();
  for (int64_t begin = 0; begin < k_TD.size(0); begin += keys_per_tile) {
    const int64_t keys = std::min(keys_per_tile, k_TD.size(0) - begin);
    const Tensor scores = Matrix(tile.scores, queries, keys);
    const Tensor probabilities = Matrix(tile.probabilities, queries, keys);
    MultiplyInto(scores, q_SD, k_TD.narrow(0, begin, keys).t());
    SoftmaxOfTile(scores, scale, state, probabilities);
    MultiplyInto(product, probabilities, v_TD.narrow(0, begin, keys));
    at::addcmul_out(sums, product, sums, state.correction_S.unsqueeze(1));
  }
  out_SD.copy_(sums.div_(state.sum_S.unsqueeze(1)));
}

}  // namespace

Tensor TiledAttention(const Tensor& q_SD, const Tensor& k_TD, const Tensor& v_TD,
                      const WideHeadOptions& options) {
  CheckIndexable(q_SD, "queries");
  CheckIndexable(k_TD, "keys");
  const int64_t keys = Divided(k_TD.size(0), kKeysPerTile);
  const int64_t most = QueriesPerTile(q_SD, keys, options.workspace_bytes);
  Tensor out_SD = at::empty_like(q_SD);
  Tile tile(most, keys, q_SD);
  for (int64_t begin = 0; begin < q_SD.size(0); begin += most) {
    const int64_t queries = std::min(most, q_SD.size(0) - begin);
    AttendQueries(q_SD.narrow(0, begin, queries), k_TD, v_TD, keys, tile,
                  out_SD.narrow(0, begin, queries));
    if (options.tile_done) options.tile_done();
  }
  return out_SD;
}

Tensor WideHeadAttention(const Tensor& q_BSHD, const Tensor& k_BTHD, const Tensor& v_BTHD,
                         const WideHeadOptions& options) {
  TORCH_CHECK(q_BSHD.size(0) == 1 && q_BSHD.size(2) == 1, "one image and one head expected, got ",
              q_BSHD.sizes());
  const AttentionKernel kernel =
      ChooseAttentionKernel({q_BSHD.device().type(), q_BSHD.scalar_type(), q_BSHD.size(1),
                             k_BTHD.size(1), q_BSHD.size(3), false});
  if (kernel != AttentionKernel::kMemoryEfficient && kernel != AttentionKernel::kMath) {
    return Sdpa(q_BSHD, k_BTHD, v_BTHD);
  }
  const auto matrix = [](const Tensor& x) { return x.squeeze(2).squeeze(0).contiguous(); };
  return TiledAttention(matrix(q_BSHD), matrix(k_BTHD), matrix(v_BTHD), options)
      .view(q_BSHD.sizes());
}

}  // namespace patchflow
