#include "tests/parallel/oracle.h"

#include <ATen/ATen.h>

#include <functional>
#include <vector>

#include "engine/attention.h"

namespace patchflow {
namespace {

class AttentionBy final : public SelfAttention {
 public:
  using Fn = std::function<Tensor(const AttentionInput&)>;
  explicit AttentionBy(Fn fn) : fn_(std::move(fn)) {}
  Tensor Attend(const AttentionInput& in) override { return fn_(in); }

 private:
  Fn fn_;
};

struct KeysAndValues {
  Tensor k_BTHD;
  Tensor v_BTHD;
};

// The part of a run of tokens with all that the sampler knows of it.
struct Part {
  TokenSpan span;
  Tensor x_NSC;
  SamplerState state;
};

std::vector<Part> Divide(const Tensor& x_NSC, int64_t parts) {
  std::vector<Part> divided;
  const int64_t tokens = x_NSC.size(1);
  int64_t begin = 0;
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t size = tokens / parts + (i < tokens % parts ? 1 : 0);
    divided.push_back(
        {{begin, begin + size}, x_NSC.narrow(1, begin, size).contiguous(), SamplerState{}});
    begin += size;
  }
  return divided;
}

Tensor Join(const std::vector<Part>& parts) {
  std::vector<Tensor> x;
  for (const Part& part : parts) {
    x.push_back(part.x_NSC);
  }
  return at::cat(x, 1);
}

// What all steps of one job have in common.
class Loop {
 public:
  Loop(const Transformer& whole, const DenoiseJob& job)
      : whole_(whole),
        job_(job),
        guidance_(job.guidance_scale),
        conditioning_(whole.Prepare(job.prompts, job.grid, job.sampler.timesteps(), {})) {}

  void BeginStep(int step) {
    step_ = at::full({1}, step, job_.noise_NSC.options().dtype(at::kLong));
  }
  Tensor Noise() const { return job_.noise_NSC * job_.sampler.initial_noise_scale(); }
  Tensor Embed(const Part& part) {
    AttentionBy none({});
    return whole_.Embed(guidance_.Expand(job_.sampler.ScaleInput(step_, part.x_NSC)),
                        Context(part, none));
  }
  Tensor RunBlocks(BlockRange range, const Tensor& h_BSE, const Part& part, AttentionBy::Fn fn) {
    AttentionBy attention(std::move(fn));
    return whole_.RunBlocks(range, h_BSE, Context(part, attention));
  }
  void Finish(const Tensor& h_BSE, Part& part) {
    AttentionBy none({});
    const Tensor eps_NSC = guidance_.Combine(whole_.Project(h_BSE, Context(part, none)));
    part.x_NSC = job_.sampler.Step(step_, part.x_NSC, eps_NSC, part.state);
  }
  int num_blocks() const { return whole_.config().num_blocks; }

 private:
  StepContext Context(const Part& part, SelfAttention& attention) {
    return {*conditioning_, step_, part.span, attention, sum_};
  }

  const Transformer& whole_;
  const DenoiseJob& job_;
  LocalGuidance guidance_;
  LocalSum sum_;
  const std::unique_ptr<Conditioning> conditioning_;
  Tensor step_;
};

}  // namespace

Tensor DistriFusionOracle(const Transformer& whole, const DenoiseJob& job, int ranks,
                          int warmup_steps) {
  Loop loop(whole, job);
  std::vector<Part> shares = Divide(loop.Noise(), ranks);
  std::vector<KeysAndValues> last(loop.num_blocks());
  for (int step = 0; step < job.sampler.num_steps(); ++step) {
    loop.BeginStep(step);
    std::vector<Tensor> h_BSE;
    for (const Part& share : shares) {
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
      const KeysAndValues fresh{at::cat(k, 1), at::cat(v, 1)};
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
  return Join(shares);
}

Tensor PipeFusionOracle(const Transformer& whole, const DenoiseJob& job, int patches,
                        int warmup_steps) {
  Loop loop(whole, job);
  const BlockRange all{0, loop.num_blocks()};
  std::vector<KeysAndValues> newest(loop.num_blocks());
  Part image{{0, job.grid.size()}, loop.Noise(), {}};
  int step = 0;
  for (; step < std::min(warmup_steps, job.sampler.num_steps()); ++step) {
    loop.BeginStep(step);
    const Tensor h = loop.RunBlocks(all, loop.Embed(image), image, [&](const AttentionInput& in) {
      newest[in.block] = {in.k_BSHD.contiguous(), in.v_BSHD.contiguous()};
      return Sdpa(in.q_BSHD, newest[in.block].k_BTHD, newest[in.block].v_BTHD);
    });
    loop.Finish(h, image);
  }
  std::vector<Part> parts = Divide(image.x_NSC, patches);
  for (Part& part : parts) {
    part.state = image.state.Slice(part.span);
  }
  for (; step < job.sampler.num_steps(); ++step) {
    loop.BeginStep(step);
    for (Part& part : parts) {
      const Tensor h = loop.RunBlocks(all, loop.Embed(part), part, [&](const AttentionInput& in) {
        const KeysAndValues& kv = newest[in.block];
        kv.k_BTHD.narrow(1, in.span.begin, in.span.size()).copy_(in.k_BSHD);
        kv.v_BTHD.narrow(1, in.span.begin, in.span.size()).copy_(in.v_BSHD);
        return Sdpa(in.q_BSHD, kv.k_BTHD, kv.v_BTHD);
      });
      loop.Finish(h, part);
    }
  }
  return Join(parts);
}

}  // namespace patchflow
