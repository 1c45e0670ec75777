#include "worker/rank_record.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <thread>

#include "parallel/local_communicator.h"
#include "tests/worker/fake_engine.h"
#include "tests/worker/scratch.h"

namespace patchflow {
namespace {

using testing::HasSubstr;

class SilentMonitor final : public RequestMonitor {
 public:
  void Enter(Phase /*phase*/) override {}
  void StepsDone(int /*steps*/) override {}
  bool Continue(int /*step*/) override { return true; }
};

class RankRecordTest : public testing::Test {
 protected:
  std::string Text() const {
    std::ifstream file(path_, std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    text.erase(std::remove(text.begin(), text.end(), '\0'), text.end());
    return text;
  }

  const Scratch folder_;
  const std::string path_ = (folder_.path() / "box").string();
  const std::unique_ptr<BlackBox> box_ = *BlackBox::Create(path_);
};

TEST_F(RankRecordTest, TellsHowFarARankIs) {
  std::string at_the_step;
  std::string at_the_decoding;
  const auto engine =
      RecordEngine(std::make_unique<FakeEngine>(FakeEngineOptions{
                       .before_step =
                           [&](const ImageRequest&, int step) {
                             if (step == 2) at_the_step = Text();
                           },
                       .before_decode = [&](const ImageRequest&) { at_the_decoding = Text(); }}),
                   std::make_shared<RankRecord>(*box_, 1));
  ImageRequest request;
  request.width_px = request.height_px = 16;
  request.steps = 3;
  request.prompt = "a secret";
  SilentMonitor monitor;
  EXPECT_THAT(Text(), HasSubstr("- rank=1 phase=load "));
  ASSERT_TRUE(engine->Generate(request, monitor).ok());
  EXPECT_THAT(at_the_step, HasSubstr("- rank=1 phase=denoise step=2/3 collectives=0 in=- image=1"));
  EXPECT_THAT(at_the_decoding, HasSubstr("- rank=1 phase=decode step=3/3"));
  EXPECT_THAT(Text(), HasSubstr("- rank=1 phase=idle"));
  EXPECT_THAT(Text(), testing::Not(HasSubstr("secret")));
}

TEST_F(RankRecordTest, CountsAllOfTheWarmUpAsTheFirstImage) {
  const auto engine = RecordEngine(std::make_unique<FakeEngine>(FakeEngineOptions()),
                                   std::make_shared<RankRecord>(*box_, 0, 2));
  ImageRequest request;
  request.width_px = request.height_px = 16;
  SilentMonitor monitor;
  for (const char* image : {"image=1", "image=1", "image=2", "image=3"}) {
    ASSERT_TRUE(engine->Generate(request, monitor).ok());
    EXPECT_THAT(Text(), HasSubstr(image));
  }
}

TEST_F(RankRecordTest, TellsWhyARankFailed) {
  const auto engine = RecordEngine(
      std::make_unique<FakeEngine>(FakeEngineOptions{
          .before_decode = [](const ImageRequest&) { throw std::runtime_error("no such tile"); }}),
      std::make_shared<RankRecord>(*box_, 0));
  ImageRequest request;
  request.width_px = request.height_px = 16;
  SilentMonitor monitor;
  EXPECT_FALSE(engine->Generate(request, monitor).ok());
  EXPECT_THAT(Text(), HasSubstr("rank 0 failed: INTERNAL INTERNAL: no such tile"));
  EXPECT_THAT(Text(), HasSubstr("- rank=0 phase=ended"));
}

TEST_F(RankRecordTest, CountsOperationsAndTellsTheOneThatIsWaitedFor) {
  const auto worlds = LocalWorld::Make(2, {});
  std::string meanwhile;
  std::thread other([&] {
    const auto ends = worlds[1]->Split(0, "all");
    Tensor t = at::ones({4});
    ends->AllReduceSum(t).Wait();
    for (int i = 0;
         i < 1000 && meanwhile.find("collectives=3 in=all_reduce_sum") == std::string::npos; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      meanwhile = Text();
    }
    ends->AllReduceSum(t).Wait();
  });
  RankRecord record(*box_, 0);
  RecordingWorld world(*worlds[0], record);
  const auto ends = world.Split(0, "all");  // The first operation.
  Tensor t = at::ones({4});
  ends->AllReduceSum(t).Wait();
  ends->AllReduceSum(t).Wait();
  other.join();
  EXPECT_THAT(meanwhile, HasSubstr("collectives=3 in=all_reduce_sum"));
  EXPECT_THAT(Text(), HasSubstr("collectives=3 in=- "));
}

}  // namespace
}  // namespace patchflow
