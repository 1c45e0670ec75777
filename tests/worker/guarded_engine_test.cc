#include "worker/guarded_engine.h"

#include <gmock/gmock.h>

#include "engine/status_of.h"

namespace patchflow {
namespace {

using testing::HasSubstr;

class SilentMonitor final : public RequestMonitor {
 public:
  void Enter(Phase /*phase*/) override {}
  void StepsDone(int /*steps*/) override {}
  bool Continue(int /*step*/) override { return true; }
};

// Two steps and a decoding; something may happen before each.
class SteppingEngine final : public Engine {
 public:
  explicit SteppingEngine(std::function<void(int moment)> happen) : happen_(std::move(happen)) {}
  const ModelDescription& description() const override { return description_; }
  const std::vector<LoadedComponent>& components() const override { return components_; }
  absl::StatusOr<Generated> Generate(const ImageRequest& /*request*/,
                                     RequestMonitor& monitor) override {
    return StatusOrOfThrowing<Generated>([&]() -> absl::StatusOr<Generated> {
      for (int step = 0; step < 2; ++step) {
        happen_(step);
        monitor.Continue(step);
      }
      happen_(2);
      monitor.Enter(Phase::kDecode);
      happen_(3);
      ++finished_;
      return Generated();
    });
  }
  static int finished_;

 private:
  const std::function<void(int)> happen_;
  const ModelDescription description_;
  const std::vector<LoadedComponent> components_;
};
int SteppingEngine::finished_ = 0;

TEST(GuardedEngineTest, HandsOutWhatAHealthyGroupMakes) {
  SilentMonitor monitor;
  const auto engine =
      GuardEngine(std::make_unique<SteppingEngine>([](int) {}), [] { return std::string(); });
  EXPECT_TRUE(engine->Generate({}, monitor).ok());
}

// A fault at any moment, that nothing but `failure` tells of, leaves no result.
TEST(GuardedEngineTest, HandsOutNothingOnceTheWorldWasAborted) {
  for (const int moment : {0, 1, 2, 3}) {
    SteppingEngine::finished_ = 0;
    std::string failure;
    SilentMonitor monitor;
    const auto engine = GuardEngine(std::make_unique<SteppingEngine>([&](int now) {
                                      if (now == moment) failure = "rank 1 is gone";
                                    }),
                                    [&] { return failure; });
    const absl::Status status = engine->Generate({}, monitor).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << moment;
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1 is gone"));
    EXPECT_EQ(EngineReasonOf(status), "INTERNAL");
    EXPECT_EQ(SteppingEngine::finished_, moment == 3 ? 1 : 0);
  }
}

}  // namespace
}  // namespace patchflow
