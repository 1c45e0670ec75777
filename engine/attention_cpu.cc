#include "engine/attention_cpu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>

#include <algorithm>
#include <memory>

namespace patchflow {
namespace {

constexpr int64_t kScoreBytes =
    288 << 10;  // Of the second-level cache, beside a head's keys and values.

int64_t DivideUp(int64_t total, int64_t by) { return (total + by - 1) / by; }

struct Problem {
  const CpuKernels& kernels;
  Tensor q_BSHD;
  Tensor k_BTHD;
  Tensor v_BTHD;
  float scale;
  Tensor o_BSHD;
  Tensor lse_BHS;  // Or undefined.

  int64_t heads() const { return q_BSHD.size(0) * q_BSHD.size(2); }  // Of all batch rows.
  int64_t queries() const { return q_BSHD.size(1); }
  int64_t keys() const { return k_BTHD.size(1); }
  int64_t filled_keys() const { return DivideUp(keys(), kernels.panel) * kernels.panel; }
  int64_t head_size() const { return q_BSHD.size(3); }
  const float* Head(const Tensor& x_BSHD, int64_t head) const {
    const int64_t b = head / x_BSHD.size(2);
    const int64_t h = head % x_BSHD.size(2);
    return x_BSHD.const_data_ptr<float>() + b * x_BSHD.stride(0) + h * x_BSHD.stride(2);
  }
};

// One thread's memory: scores of some queries, and a head's keys and values as products' weights.
class HeadWorker {
 public:
  HeadWorker(const Problem& problem, int64_t most_queries)
      : problem_(problem),
        scores_(Elements(most_queries * problem.filled_keys())),
        keys_(Elements(PanelElements(problem.kernels, problem.keys(), problem.head_size()))),
        values_(Elements(PanelElements(problem.kernels, problem.head_size(), problem.keys()))) {}

  void Attend(int64_t head, int64_t first, int64_t rows) {
    if (head != packed_) Pack(head);
    const Problem& p = problem_;
    CpuGemmArgs product;
    product.x = p.Head(p.q_BSHD, head) + first * p.q_BSHD.stride(1);
    product.x_stride = p.q_BSHD.stride(1);
    product.panels = keys_.get();
    product.y = scores_.get();
    product.rows = rows;
    product.in = p.head_size();
    product.out = p.filled_keys();
    p.kernels.multiply(product, CpuEpilogue::kBias);
    float* const lse = p.lse_BHS.defined() ? p.lse_BHS.mutable_data_ptr<float>() : nullptr;
    p.kernels.softmax({.x = scores_.get(),
                       .rows = rows,
                       .length = p.keys(),
                       .stride = p.filled_keys(),
                       .scale = p.scale,
                       .lse = lse == nullptr ? nullptr : lse + head * p.queries() + first});
    product.x = scores_.get();
    product.x_stride = p.filled_keys();
    product.panels = values_.get();
    product.y = const_cast<float*>(p.Head(p.o_BSHD, head)) + first * p.o_BSHD.stride(1);
    product.y_stride = p.o_BSHD.stride(1);
    product.in = p.keys();
    product.out = p.head_size();
    p.kernels.multiply(product, CpuEpilogue::kBias);
  }

 private:
  static std::unique_ptr<float[]> Elements(int64_t count) {
    return std::unique_ptr<float[]>(new float[static_cast<size_t>(count)]);
  }
  void Pack(int64_t head) {
    const Problem& p = problem_;
    p.kernels.pack(p.Head(p.k_BTHD, head), p.k_BTHD.stride(1), 1, p.keys(), p.head_size(),
                   keys_.get());
    p.kernels.pack(p.Head(p.v_BTHD, head), 1, p.v_BTHD.stride(1), p.head_size(), p.keys(),
                   values_.get());
    packed_ = head;
  }

  const Problem& problem_;
  std::unique_ptr<float[]> scores_;
  std::unique_ptr<float[]> keys_;
  std::unique_ptr<float[]> values_;
  int64_t packed_ = -1;
};

// So few that their scores stay in the cache and every thread has some.
int64_t TasksOfHead(const Problem& p) {
  const int64_t cached = kScoreBytes / (p.filled_keys() * static_cast<int64_t>(sizeof(float)));
  const int64_t shared = DivideUp(p.queries() * p.heads(), at::get_num_threads());
  const int64_t tile = p.kernels.tile_rows;
  const int64_t most = std::max(std::min(cached, shared) / tile, int64_t{1}) * tile;
  return DivideUp(p.queries(), most);
}

Tensor WithDenseHeads(const Tensor& x_BSHD) {
  return x_BSHD.stride(3) == 1 ? x_BSHD : x_BSHD.contiguous();
}

}  // namespace

const CpuKernels* CpuKernelsHere() { return CpuKernelsFor(at::get_cpu_capability()); }

AttentionPart AttendCpuTiles(const CpuKernels& kernels, const Tensor& q_BSHD, const Tensor& k_BTHD,
                             const Tensor& v_BTHD, double scale, bool with_lse) {
  Problem problem{kernels,
                  WithDenseHeads(q_BSHD),
                  WithDenseHeads(k_BTHD),
                  WithDenseHeads(v_BTHD),
                  static_cast<float>(scale),
                  at::empty(q_BSHD.sizes(), q_BSHD.options()),
                  {}};
  const int64_t queries = problem.queries();
  if (with_lse) {
    problem.lse_BHS = at::empty({q_BSHD.size(0), q_BSHD.size(2), queries}, q_BSHD.options());
  }
  const int64_t tasks = TasksOfHead(problem);
  at::parallel_for(0, problem.heads() * tasks, 1, [&](int64_t begin, int64_t end) {
    HeadWorker worker(problem, DivideUp(queries, tasks));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = queries * (i % tasks) / tasks;
      const int64_t last = queries * (i % tasks + 1) / tasks;
      worker.Attend(i / tasks, first, last - first);
    }
  });
  return {problem.o_BSHD, problem.lse_BHS};
}

}  // namespace patchflow
