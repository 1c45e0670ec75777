#include "tests/parallel/oracle_loop.h"

#include <ATen/ATen.h>

#include <utility>

namespace patchflow {
namespace {

class AttentionBy final : public SelfAttention {
 public:
  explicit AttentionBy(OracleLoop::Attend attend) : attend_(std::move(attend)) {}
  Tensor Attend(const AttentionInput& in) override { return attend_(in); }

 private:
  OracleLoop::Attend attend_;
};

}  // namespace

std::vector<OraclePart> DivideTokens(const Tensor& x_NSC, int64_t parts) {
  std::vector<OraclePart> divided;
  const int64_t tokens = x_NSC.size(1);
  int64_t begin = 0;
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t size = tokens / parts + (i < tokens % parts ? 1 : 0);
    divided.push_back({{begin, begin + size}, x_NSC.narrow(1, begin, size).contiguous(), {}});
    begin += size;
  }
  return divided;
}

Tensor JoinTokens(const std::vector<OraclePart>& parts) {
  std::vector<Tensor> x;
  for (const OraclePart& part : parts) {
    x.push_back(part.x_NSC);
  }
  return at::cat(x, 1);
}

OracleLoop::OracleLoop(const Transformer& whole, const DenoiseJob& job)
    : whole_(whole),
      job_(job),
      guidance_(job.guidance_scale),
      conditioning_(whole.Prepare(job.prompts, job.grid, job.sampler.timesteps(), {})) {}

void OracleLoop::BeginStep(int step) {
  step_ = at::full({1}, step, job_.noise_NSC.options().dtype(at::kLong));
}

Tensor OracleLoop::Noise() const { return job_.noise_NSC * job_.sampler.initial_noise_scale(); }

Tensor OracleLoop::Embed(const OraclePart& part) {
  AttentionBy none({});
  return whole_.Embed(guidance_.Expand(job_.sampler.ScaleInput(step_, part.x_NSC)),
                      Context(part, none));
}

Tensor OracleLoop::RunBlocks(BlockRange range, const Tensor& h_BSE, const OraclePart& part,
                             Attend attend) {
  AttentionBy attention(std::move(attend));
  return whole_.RunBlocks(range, h_BSE, Context(part, attention));
}

void OracleLoop::Finish(const Tensor& h_BSE, OraclePart& part) {
  AttentionBy none({});
  const Tensor eps_NSC = guidance_.Combine(whole_.Project(h_BSE, Context(part, none)));
  part.x_NSC = job_.sampler.Step(step_, part.x_NSC, eps_NSC, part.state);
}

StepContext OracleLoop::Context(const OraclePart& part, SelfAttention& attention) {
  return {*conditioning_, step_, part.span, attention, sum_};
}

}  // namespace patchflow
