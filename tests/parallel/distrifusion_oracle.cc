#include "tests/parallel/distrifusion_oracle.h"

#include <ATen/ATen.h>

#include <vector>

#include "engine/attention.h"
#include "tests/parallel/oracle_loop.h"

namespace patchflow {

Tensor DistriFusionOracle(const Transformer& whole, const DenoiseJob& job, int ranks,
                          int warmup_steps) {
  OracleLoop loop(whole, job);
  std::vector<OraclePart> shares = DivideTokens(loop.Noise(), ranks);
  std::vector<OracleKeys> last(loop.num_blocks());
  for (int step = 0; step < job.sampler.num_steps(); ++step) {
    loop.BeginStep(step);
    std::vector<Tensor> h_BSE;
    for (const OraclePart& share : shares) {
      h_BSE.push_back(loop.Embed(share));
    }
    for (int block = 0; block < loop.num_blocks(); ++block) {
      std::vector<Tensor> k;
      std::vector<Tensor> v;
      for (int r = 0; r < ranks; ++r) {  // Only to learn this step's keys and values.
        loop.RunBlocks({block, block + 1}, h_BSE[r], shares[r], [&](const AttentionInput& in) {
          k.push_back(in.k_BSHD);
          v.push_back(in.v_BSHD);
          return at::zeros_like(in.q_BSHD, at::MemoryFormat::Contiguous);
        });
      }
      const OracleKeys fresh{at::cat(k, 1), at::cat(v, 1)};
      for (int r = 0; r < ranks; ++r) {
        h_BSE[r] =
            loop.RunBlocks({block, block + 1}, h_BSE[r], shares[r], [&](const AttentionInput& in) {
              if (step < warmup_steps) {
                return Sdpa(in.q_BSHD, fresh.k_BTHD, fresh.v_BTHD);
              }
              const Tensor mixed_k = last[block].k_BTHD.clone();
              const Tensor mixed_v = last[block].v_BTHD.clone();
              mixed_k.narrow(1, in.span.begin, in.span.size()).copy_(in.k_BSHD);
              mixed_v.narrow(1, in.span.begin, in.span.size()).copy_(in.v_BSHD);
              return Sdpa(in.q_BSHD, mixed_k, mixed_v);
            });
      }
      last[block] = fresh;
    }
    for (int r = 0; r < ranks; ++r) {
      loop.Finish(h_BSE[r], shares[r]);
    }
  }
  return JoinTokens(shares);
}

}  // namespace patchflow
