#include "engine/loop_graphs.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

namespace patchflow {
namespace {

class TwoTensors final : public Conditioning {
 public:
  TwoTensors(Tensor a, Tensor b) : all_{std::move(a), std::move(b)} {}
  std::vector<Tensor> tensors() const override { return all_; }
  std::unique_ptr<Conditioning> Clone() const override {
    return std::make_unique<TwoTensors>(all_[0].clone(), all_[1].clone());
  }

 private:
  std::vector<Tensor> all_;
};

// No kernel of it is ever enqueued here.
class NoTransformer final : public Transformer {
 public:
  const TransformerConfig& config() const override { return config_; }
  BlockRange blocks() const override { return {}; }
  int64_t parameter_bytes() const override { return 0; }
  at::ScalarType dtype() const override { return at::kFloat; }
  std::unique_ptr<Conditioning> Prepare(const Prompt&, TokenGrid, const std::vector<double>&,
                                        const Tensor&) const override {
    return nullptr;
  }
  Tensor Embed(const Tensor& x, const StepContext&) const override { return x; }
  Tensor RunBlocks(BlockRange, Tensor h, const StepContext&) const override { return h; }
  Tensor Project(const Tensor& h, const StepContext&) const override { return h; }

 private:
  TransformerConfig config_;
};

class LoopGraphsTest : public testing::Test {
 protected:
  struct Request {
    int64_t tokens = 6;
    int64_t text = 3;
    int steps = 4;
    double guidance_scale = 4.5;
    TokenSpan span = {0, 4};
    double value = 1;
  };

  LoopMemory& Begin(const Request& request) {
    sampler_ = std::make_unique<Sampler>(*Sampler::Make("euler", {}, request.steps));
    conditioning_ = std::make_unique<TwoTensors>(at::full({request.tokens, 2}, request.value),
                                                 at::full({request.text}, request.value));
    DenoiseJob job{at::full({1, request.tokens, 2}, request.value),
                   {1, request.tokens},
                   {},
                   request.guidance_scale,
                   *sampler_};
    return graphs_.Begin(job, {.transformer = transformer_,
                               .conditioning = *conditioning_,
                               .attention = attention_,
                               .tensor_axis = sum_,
                               .guidance = guidance_,
                               .span = request.span});
  }

 private:
  c10::InferenceMode inference_;
  LoopGraphs graphs_;
  NoTransformer transformer_;
  LocalAttention attention_;
  LocalSum sum_;
  LocalGuidance guidance_{4.5};
  std::unique_ptr<Sampler> sampler_;
  std::unique_ptr<TwoTensors> conditioning_;
};

TEST_F(LoopGraphsTest, RequestsOfOneKindShareMemoryAndBringTheirNumbers) {
  LoopMemory& first = Begin({});
  const void* x = first.x_NSC.data_ptr();
  const void* text = first.conditioning->tensors()[1].data_ptr();
  first.state.previous_x0_NSC.fill_(9);
  first.step.fill_(3);
  LoopMemory& second = Begin({.steps = 20, .value = 2});
  EXPECT_EQ(second.x_NSC.data_ptr(), x);
  EXPECT_EQ(second.conditioning->tensors()[1].data_ptr(), text);
  EXPECT_EQ(second.conditioning->tensors()[0].min().item<float>(), 2);
  EXPECT_EQ(second.conditioning->tensors()[1].min().item<float>(), 2);
  EXPECT_EQ(second.step.item<int64_t>(), 0);
  EXPECT_EQ(second.state.previous_x0_NSC.abs().max().item<float>(), 0);
  EXPECT_EQ(second.sampler->num_steps(), 20);
  EXPECT_FLOAT_EQ(second.x_NSC.min().item<float>(),
                  static_cast<float>(2 * second.sampler->initial_noise_scale()));
}

TEST_F(LoopGraphsTest, KindsDifferByShapesSpanAndGuidance) {
  const void* x = Begin({}).x_NSC.data_ptr();
  for (const Request& other :
       {Request{.tokens = 8}, Request{.text = 5}, Request{.guidance_scale = 7},
        Request{.span = {2, 6}}, Request{.steps = 100}}) {
    EXPECT_NE(Begin(other).x_NSC.data_ptr(), x);
    EXPECT_EQ(Begin({}).x_NSC.data_ptr(), x);
  }
}

TEST_F(LoopGraphsTest, KeepsTheFourKindsUsedLast) {
  const Tensor kept = Begin({}).x_NSC;
  const Tensor dropped = Begin({.text = 4}).x_NSC;
  for (int64_t text : {5, 6}) {
    Begin({.text = text});
  }
  EXPECT_EQ(Begin({}).x_NSC.data_ptr(), kept.data_ptr());
  Begin({.text = 7});
  EXPECT_EQ(Begin({}).x_NSC.data_ptr(), kept.data_ptr());
  EXPECT_EQ(dropped.use_count(), 1);
}

TEST_F(LoopGraphsTest, KeepsAsManyKindsAsAreAskedFor) {
  KeepKinds(6);
  const void* x = Begin({}).x_NSC.data_ptr();
  for (const int64_t tokens : {8, 9, 10, 11, 12}) Begin({.tokens = tokens});
  EXPECT_EQ(Begin({}).x_NSC.data_ptr(), x);
  EXPECT_EQ(KeptKinds(8), 8U) << "fewer are asked for than are kept anyway";
  KeepKinds(0);
  EXPECT_EQ(KeptKinds(4), 4U);
}

TEST_F(LoopGraphsTest, TheRequestsOwnTensorsStayUntouched) {
  LoopMemory& memory = Begin({.value = 3});
  memory.conditioning->tensors()[0].zero_();
  EXPECT_EQ(Begin({.value = 3}).conditioning->tensors()[0].min().item<float>(), 3);
}

}  // namespace
}  // namespace patchflow
