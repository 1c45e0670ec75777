// The bundled model behind a worker with batches: what is beside an image is nothing to it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <cstdlib>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <tuple>

#include "absl/time/clock.h"
#include "engine/device.h"
#include "tests/worker/placed_images.h"
#include "worker/load.h"
#include "worker/worker.h"

namespace patchflow {
namespace {

constexpr int kBatchSize = 3;

bool OnGpu() { return std::getenv("PATCHFLOW_TEST_GPU") != nullptr; }

LoadOptions OptionsOf(int batch_size, const std::string& layout = "") {
  LoadOptions options;
  options.model_dir = kBundledModel;
  options.layout = ParseLayout(layout).value();
  options.devices = ChooseDevices(OnGpu() ? "cuda" : "cpu", OnGpu() ? "bfloat16" : "float32",
                                  options.layout.ranks(), 0)
                        .value();
  options.batch_size = batch_size;
  options.warm_up = {{64, 48}};
  return options;
}

class Picture final : public JobEvents {
 public:
  void OnPhase(int /*image_index*/, JobPhase /*phase*/, int /*steps_done*/) override {}
  void OnTrace(int /*image_index*/, const std::vector<RankTrace>& /*ranks*/) override {}
  void OnImage(FinishedImage image) override { bytes_ = std::move(image.bytes); }
  void OnEnd(const absl::Status& status) override {
    const std::lock_guard lock(mutex_);
    end_ = status;
    changed_.notify_all();
  }
  std::string Await() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return end_.has_value(); });
    EXPECT_TRUE(end_->ok()) << *end_;
    return bytes_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string bytes_;
  std::optional<absl::Status> end_;
};

class BatchedModelTest : public ::testing::Test {
 protected:
  void Start(std::chrono::steady_clock::duration delay, const std::string& layout = "") {
    const LoadOptions load = OptionsOf(kBatchSize, layout);
    WorkerOptions options;
    options.ranks = load.layout.ranks();
    options.batch_size = kBatchSize;
    options.batch_delay = delay;
    options.process_start = absl::Now();
    options.load = [load] { return LoadGroup(load); };
    options.on_failed = [](const absl::Status& failure) { ADD_FAILURE() << failure; };
    worker_ = std::make_unique<Worker>(std::move(options));
    while (worker_->Describe().state != WorkerState::kReady) absl::SleepFor(absl::Milliseconds(5));
  }

  static Job JobOf(const std::string& prompt, uint64_t seed, int steps = 2) {
    JobImage image{.index = 0, .request = RequestOf(64, steps)};
    image.request.height_px = 48;
    image.request.prompt = prompt;
    image.request.seed = seed;
    image.encode.format = ImageFormat::kRawRgb8;
    Job job;
    job.images = {image};
    return job;
  }

  // Null if the worker is busy.
  std::shared_ptr<Picture> Begin(const Job& job) {
    auto picture = std::make_shared<Picture>();
    const absl::Status begun = worker_->Start(job, {}, picture);
    if (!begun.ok()) {
      EXPECT_EQ(EngineReasonOf(begun), "WORKER_BUSY") << begun;
      return nullptr;
    }
    return picture;
  }
  std::string Make(const Job& job) {
    while (true) {
      if (const auto picture = Begin(job)) return picture->Await();
      absl::SleepFor(absl::Milliseconds(2));
    }
  }

  std::unique_ptr<Worker> worker_;
};

// As many as there are GPUs for.
std::vector<std::string> Layouts() {
  std::vector<std::string> layouts = {"serial", "ulysses=2",
                                      "pipefusion=2,patches=2,warmup_steps=1", "guidance=2"};
  std::erase_if(layouts, [](const std::string& layout) {
    return OnGpu() && ParseLayout(layout).value().ranks() > CudaDeviceCount();
  });
  return layouts;
}

class BatchedLayoutTest : public BatchedModelTest,
                          public testing::WithParamInterface<std::string> {};
INSTANTIATE_TEST_SUITE_P(Layouts, BatchedLayoutTest, testing::ValuesIn(Layouts()));

TEST_P(BatchedLayoutTest, AnImageHasTheBytesThatItHasAlone) {
  Start(std::chrono::milliseconds(300), GetParam());
  const std::vector<Job> jobs = {
      JobOf("a red star", 1),
      JobOf("a large green triangle to the left of a blue circle on a white background", 2),
      JobOf("a cat", 3)};
  std::vector<std::string> alone;
  for (const Job& job : jobs) alone.push_back(Make(job));
  EXPECT_NE(alone[0], alone[1]);
  std::vector<std::shared_ptr<Picture>> together;
  for (const Job& job : jobs) together.push_back(Begin(job));
  for (size_t i = 0; i < jobs.size(); ++i) {
    ASSERT_NE(together[i], nullptr) << i;
    EXPECT_EQ(together[i]->Await(), alone[i]) << i;
  }
}

TEST_F(BatchedModelTest, ManyCallersOfTwoShapesHaveTheBytesOfACallAlone) {
  Start(kBatchDelay);
  const auto job_of = [](unsigned number) {
    return JobOf(number % 2 == 0 ? "a red star" : "a blue circle above a cat", number % 5,
                 number % 3 == 0 ? 3 : 2);
  };
  std::map<unsigned, std::string> alone;
  for (unsigned number = 0; number < 30; ++number) alone[number] = Make(job_of(number));
  const auto caller = [&](unsigned seed) {
    std::mt19937 random(seed);
    for (int turn = 0; turn < 12; ++turn) {
      const auto number = static_cast<unsigned>(random() % 30);
      EXPECT_EQ(Make(job_of(number)), alone[number]) << number;
    }
  };
  std::vector<std::jthread> callers;
  for (unsigned seed = 0; seed < 6; ++seed) callers.emplace_back(caller, seed);
}

TEST(BatchedPlanTest, TheBatchSizeIsPartOfThePlan) {
  const auto one = LoadGroup(OptionsOf(1));
  const auto three = LoadGroup(OptionsOf(kBatchSize));
  ASSERT_TRUE(one.ok() && three.ok());
  EXPECT_EQ(one->offer.model_digest, three->offer.model_digest);
  EXPECT_NE(one->offer.plan_digest, three->offer.plan_digest);
  EXPECT_THAT(three->offer.plan_facts, testing::Contains(testing::Pair("batch", "3")));
}

}  // namespace
}  // namespace patchflow
