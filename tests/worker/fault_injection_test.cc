#include "worker/fault_injection.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <stdexcept>

#include "engine/status_of.h"
#include "tests/worker/fake_engine.h"
#include "tests/worker/scratch.h"

namespace patchflow {
namespace {

using testing::HasSubstr;

// One rank with itself, which counts what is asked of it.
class CountingWorld final : public World {
 public:
  class Ends final : public Communicator {
   public:
    explicit Ends(int& calls) : calls_(calls) {}
    int rank() const override { return 0; }
    int size() const override { return 1; }
    Pending AllReduceSum(const Tensor& /*t*/) override { return Count(); }
    Pending AllGather(const Tensor& /*in*/, const Tensor& /*out*/) override { return Count(); }
    Pending AllToAll(const Tensor& /*in*/, const Tensor& /*out*/) override { return Count(); }
    Pending Send(const Tensor& /*t*/, int /*peer*/) override { return Count(); }
    Pending Recv(const Tensor& /*t*/, int /*peer*/) override { return Count(); }
    Pending Grouped(const std::vector<Transfer>& /*transfers*/) override { return Count(); }
    void Abort(const std::string& /*reason*/) override {}

   private:
    Pending Count() {
      ++calls_;
      return {};
    }
    int& calls_;
  };
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::unique_ptr<Communicator> Split(int /*color*/, std::string_view /*name*/) override {
    return std::make_unique<Ends>(calls);
  }
  void Abort(const std::string& /*reason*/) override {}
  int calls = 0;
};

class FaultInjectionTest : public testing::Test {
 protected:
  void Order(const std::string& order) { std::ofstream(path_) << order; }
  bool Waits() const { return std::filesystem::exists(path_); }
  absl::Status Draw() {
    ImageRequest request;
    request.width_px = request.height_px = 16;
    request.steps = 3;
    return engine_->Generate(request, monitor_).status();
  }

  class SilentMonitor final : public RequestMonitor {
   public:
    void Enter(Phase /*phase*/) override {}
    void StepsDone(int /*steps*/) override {}
    bool Continue(int /*step*/) override { return true; }
  };

  const Scratch folder_;
  const std::string path_ = (folder_.path() / "orders").string();
  FaultInjector injector_{path_};
  std::shared_ptr<RankFaults> faults_ = std::make_shared<RankFaults>(injector_, 1, at::kCPU);
  SilentMonitor monitor_;
  std::unique_ptr<Engine> engine_ =
      MakeFaulty(std::make_unique<FakeEngine>(FakeEngineOptions()), faults_);
};

TEST_F(FaultInjectionTest, ReadsOrders) {
  const auto order = ParseFaultOrder("skip warm-up 3\n");
  ASSERT_TRUE(order.has_value());
  EXPECT_EQ(order->kind, FaultKind::kSkip);
  EXPECT_EQ(order->place, FaultPlace::kWarmUp);
  EXPECT_EQ(order->rank, 3);
  for (const char* wrong : {"", "kill", "kill step", "kill nowhere 1", "explode step 1", "1 2 3"}) {
    EXPECT_FALSE(ParseFaultOrder(wrong).has_value()) << wrong;
  }
}

TEST_F(FaultInjectionTest, AnOrderIsForOneRankAtOnePlaceOnce) {
  EXPECT_FALSE(injector_.Take(FaultPlace::kStep, 1).has_value()) << "there is no order";
  Order("throw step 1");
  EXPECT_FALSE(injector_.Take(FaultPlace::kText, 1).has_value());
  EXPECT_FALSE(injector_.Take(FaultPlace::kStep, 0).has_value());
  EXPECT_TRUE(Waits());
  EXPECT_EQ(injector_.Take(FaultPlace::kStep, 1), FaultKind::kThrow);
  EXPECT_FALSE(Waits());
  EXPECT_FALSE(injector_.Take(FaultPlace::kStep, 1).has_value());
}

TEST_F(FaultInjectionTest, TheFirstImageIsTheWarmUp) {
  Order("throw step 1");
  EXPECT_TRUE(Draw().ok());
  EXPECT_THAT(std::string(Draw().message()), HasSubstr("an exception to order"));
  EXPECT_TRUE(Draw().ok()) << "once";
}

TEST_F(FaultInjectionTest, AWarmUpMayHaveSeveralImages) {
  faults_ = std::make_shared<RankFaults>(injector_, 1, at::kCPU, 2);
  engine_ = MakeFaulty(std::make_unique<FakeEngine>(FakeEngineOptions()), faults_);
  Order("throw step 1");
  EXPECT_TRUE(Draw().ok());
  EXPECT_TRUE(Draw().ok());
  EXPECT_FALSE(Draw().ok());
}

TEST_F(FaultInjectionTest, EveryPhaseOfAnImageCanFail) {
  EXPECT_TRUE(Draw().ok());
  for (const char* place : {"text", "step", "decode"}) {
    Order(std::string("throw ") + place + " 1");
    EXPECT_FALSE(Draw().ok()) << place;
    EXPECT_FALSE(Waits()) << place;
  }
  faults_ = std::make_shared<RankFaults>(injector_, 1, at::kCPU);
  engine_ = MakeFaulty(std::make_unique<FakeEngine>(FakeEngineOptions()), faults_);
  Order("throw warm-up 1");
  EXPECT_FALSE(Draw().ok());
}

TEST_F(FaultInjectionTest, OutOfMemoryIsTheDevicesOwn) {
  Order("oom load 1");
  const absl::Status status = StatusOrOfThrowing<int>([this]() -> absl::StatusOr<int> {
                                faults_->At(FaultPlace::kLoad);
                                return 0;
                              }).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(EngineReasonOf(status), "GPU_OUT_OF_MEMORY");
}

TEST_F(FaultInjectionTest, ASkippedOperationIsNotCalled) {
  CountingWorld inner;
  FaultyWorld world(inner, faults_);
  const auto communicator = world.Split(0, "all");
  EXPECT_TRUE(Draw().ok());
  Order("skip step 1");
  EXPECT_TRUE(Draw().ok());
  communicator->AllReduceSum(at::ones({2})).Wait();
  EXPECT_EQ(inner.calls, 0);
  communicator->AllReduceSum(at::ones({2})).Wait();
  EXPECT_EQ(inner.calls, 1);
}

TEST_F(FaultInjectionTest, NanComesOutOfOneOperation) {
  CountingWorld inner;
  FaultyWorld world(inner, faults_);
  const auto communicator = world.Split(0, "all");
  EXPECT_TRUE(Draw().ok());
  Order("nan text 1");
  EXPECT_TRUE(Draw().ok());
  const Tensor in = at::ones({1, 2});
  const Tensor out = at::ones({1, 2});
  communicator->AllToAll(in, out).Wait();
  EXPECT_TRUE(at::isnan(out).all().item<bool>());
  EXPECT_FALSE(at::isnan(in).any().item<bool>());
  const Tensor next = at::ones({1, 2});
  communicator->AllToAll(in, next).Wait();
  EXPECT_FALSE(at::isnan(next).any().item<bool>());
  EXPECT_EQ(inner.calls, 2);
}

}  // namespace
}  // namespace patchflow
