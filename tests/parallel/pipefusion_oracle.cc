#include "tests/parallel/pipefusion_oracle.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "engine/attention.h"
#include "tests/parallel/oracle_loop.h"

namespace patchflow {

Tensor PipeFusionOracle(const Transformer& whole, const DenoiseJob& job, int patches,
                        int warmup_steps) {
  OracleLoop loop(whole, job);
  const BlockRange all{0, loop.num_blocks()};
  std::vector<OracleKeys> newest(loop.num_blocks());
  OraclePart image{{0, job.grid.size()}, loop.Noise(), {}};
  int step = 0;
  for (; step < std::min(warmup_steps, job.sampler.num_steps()); ++step) {
    loop.BeginStep(step);
    const Tensor h = loop.RunBlocks(all, loop.Embed(image), image, [&](const AttentionInput& in) {
      newest[in.block] = {in.k_BSHD.contiguous(), in.v_BSHD.contiguous()};
      return Sdpa(in.q_BSHD, newest[in.block].k_BTHD, newest[in.block].v_BTHD);
    });
    loop.Finish(h, image);
  }
  std::vector<OraclePart> parts = DivideTokens(image.x_NSC, patches);
  for (OraclePart& part : parts) {
    part.state = image.state.Slice(part.span);
  }
  for (; step < job.sampler.num_steps(); ++step) {
    loop.BeginStep(step);
    for (OraclePart& part : parts) {
      const Tensor h = loop.RunBlocks(all, loop.Embed(part), part, [&](const AttentionInput& in) {
        const OracleKeys& kv = newest[in.block];
        kv.k_BTHD.narrow(1, in.span.begin, in.span.size()).copy_(in.k_BSHD);
        kv.v_BTHD.narrow(1, in.span.begin, in.span.size()).copy_(in.v_BSHD);
        return Sdpa(in.q_BSHD, kv.k_BTHD, kv.v_BTHD);
      });
      loop.Finish(h, part);
    }
  }
  return JoinTokens(parts);
}

}  // namespace patchflow
