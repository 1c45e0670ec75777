// Calls that share passes of a worker.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <map>
#include <mutex>
#include <random>
#include <stdexcept>
#include <thread>

#include "tests/worker/served_worker.h"

namespace patchflow {
namespace {

using testing::Contains;
using testing::Each;
using testing::ElementsAre;

constexpr int kBatchSize = 3;

// A batch of three waits until it is full, unless a test says how long.
class BatchedWorkerTest : public WorkerServiceTest {
 protected:
  BatchedWorkerTest() {
    batch_size_ = kBatchSize;
    batch_delay_ = std::chrono::seconds(20);
  }

  void StartBatched(FakeEngineOptions engine = {}) {
    engine.before_decode = [this](const ImageRequest& request) {
      const std::lock_guard lock(mutex_);
      passes_.push_back(request.beside.size() + 1);
    };
    Start(engine);
    AwaitState(worker::v1::WORKER_STATE_READY);
  }

  std::unique_ptr<Call> BeginOf(uint64_t seed, int steps = 4) {
    return Begin(RequestOfSeed(seed, steps));
  }
  // One that opens a batch, which others may join from now on.
  std::unique_ptr<Call> Open(uint64_t seed, int steps = 4) {
    auto call = BeginOf(seed, steps);
    AwaitState(worker::v1::WORKER_STATE_BUSY);
    return call;
  }
  static void ReadUntilStep(Call& call, int step) {
    EXPECT_TRUE(call.ReadUntil(
        [step](const ExecuteResponse& message) { return message.step().steps_done() >= step; }));
  }
  // Images of each pass, of rank 0 and rank 1.
  std::vector<size_t> Passes() {
    const std::lock_guard lock(mutex_);
    return passes_;
  }

 private:
  std::mutex mutex_;
  std::vector<size_t> passes_;
};

TEST_F(BatchedWorkerTest, TellsHowManyImagesShareAPass) {
  StartBatched();
  EXPECT_EQ(Describe().batch_size(), kBatchSize);
}

TEST_F(BatchedWorkerTest, CallsThatComeTogetherShareOnePassAndEachHasItsOwn) {
  StartBatched();
  std::vector<std::unique_ptr<Call>> calls;
  for (const uint64_t seed : {10, 20, 30}) calls.push_back(BeginOf(seed));
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(calls[i]->ReadUntilRanksFree()) << i;
    EXPECT_TRUE(calls[i]->ReadToEnd().ok());
    EXPECT_EQ(calls[i]->bytes, BytesOf(10 * (i + 1)));
  }
  EXPECT_THAT(Passes(), ElementsAre(3, 3)) << "by two ranks";
}

TEST_F(BatchedWorkerTest, ACallThatStaysAloneIsMadeAfterTheDelay) {
  batch_delay_ = milliseconds(50);
  StartBatched();
  const absl::Time begin = absl::Now();
  const Outcome outcome = Execute(RequestOfSeed(10));
  EXPECT_TRUE(outcome.status.ok());
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(50));
  EXPECT_THAT(Passes(), ElementsAre(1, 1));
}

TEST_F(BatchedWorkerTest, ImagesOfOneCallShareAPassAndTheOthersRows) {
  StartBatched();
  const auto one = Open(10);
  EXPECT_EQ(ReasonIn(Execute(Request(4, {0, 1, 2})).status), "WORKER_BUSY") << "two rows are left";
  const Outcome two = Execute(Request(4, {1, 3}));
  ASSERT_TRUE(two.status.ok()) << two.status.error_message();
  std::map<int, std::string> bytes;
  std::map<int, int> last_step;
  for (const ExecuteResponse& message : two.messages) {
    bytes[message.image_chunk().image_index()] += message.image_chunk().data();
    int& last = last_step[message.step().image_index()];
    last = std::max(last, message.step().steps_done());
  }
  EXPECT_EQ(bytes[1], BytesOf(6));
  EXPECT_EQ(bytes[3], BytesOf(8));
  EXPECT_EQ(last_step[1], 4);
  EXPECT_EQ(last_step[3], 4);
  EXPECT_TRUE(one->ReadToEnd().ok());
  EXPECT_EQ(one->bytes, BytesOf(10));
  EXPECT_THAT(Passes(), ElementsAre(3, 3));
}

TEST_F(BatchedWorkerTest, ACallOfMoreImagesThanRowsIsMadeInSeveralPasses) {
  StartBatched();
  const Outcome outcome = Execute(Request(4, {0, 1, 2, 3, 4}));
  ASSERT_TRUE(outcome.status.ok());
  std::vector<uint64_t> seeds;
  for (const ExecuteResponse& message : outcome.messages) {
    if (message.has_image_header()) seeds.push_back(message.image_header().seed());
  }
  EXPECT_THAT(seeds, ElementsAre(5, 6, 7, 8, 9));
  std::vector<size_t> passes = Passes();
  std::sort(passes.begin(), passes.end());
  EXPECT_THAT(passes, ElementsAre(2, 2, 3, 3));
}

TEST_F(BatchedWorkerTest, ACallOfAnotherShapeIsRefused) {
  StartBatched();
  const auto first = Open(10);
  worker::v1::ExecuteRequest other = RequestOfSeed(20);
  other.mutable_params()->set_guidance_scale(3);
  const Outcome refused = Execute(other);
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ReasonIn(refused.status), "WORKER_BUSY");
  other = RequestOfSeed(20);
  other.set_prompt("another one");
  other.mutable_params()->set_format(v1::IMAGE_FORMAT_PNG);
  other.add_image_indices(1);
  EXPECT_TRUE(Execute(other).status.ok()) << "of the same shape, it fills the batch up";
  EXPECT_TRUE(first->ReadToEnd().ok());
}

TEST_F(BatchedWorkerTest, ABatchThatRunsTakesNobody) {
  batch_delay_ = milliseconds(1);
  StartBatched({.step = milliseconds(5)});
  const auto first = BeginOf(10, 100);
  ReadUntilStep(*first, 1);
  EXPECT_EQ(ReasonIn(Execute(RequestOfSeed(20, 100)).status), "WORKER_BUSY");
  EXPECT_TRUE(first->ReadToEnd().ok());
}

TEST_F(BatchedWorkerTest, ACallThatIsCancelledLeavesTheOthersAsTheyAre) {
  StartBatched({.step = milliseconds(5)});
  const auto first = BeginOf(10, 200);
  const auto second = BeginOf(20, 200);
  const auto third = BeginOf(30, 200);
  ReadUntilStep(*second, 3);
  second->context.TryCancel();
  EXPECT_EQ(second->ReadToEnd().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Passes().empty()) << "its caller is free at once";
  EXPECT_TRUE(first->ReadToEnd().ok());
  EXPECT_EQ(first->bytes, BytesOf(10));
  EXPECT_TRUE(third->ReadToEnd().ok());
  EXPECT_EQ(third->bytes, BytesOf(30));
  EXPECT_THAT(Passes(), ElementsAre(3, 3));
}

TEST_F(BatchedWorkerTest, TheRanksStopWhenAllAreCancelled) {
  std::atomic<int> last_step = 0;
  StartBatched({.step = milliseconds(5),
                .before_step = [&](const ImageRequest&, int step) { last_step = step; }});
  std::vector<std::unique_ptr<Call>> calls;
  for (const uint64_t seed : {10, 20, 30}) calls.push_back(BeginOf(seed, 2000));
  for (const auto& call : calls) {
    ReadUntilStep(*call, 2);
    call->context.TryCancel();
  }
  AwaitState(worker::v1::WORKER_STATE_READY);
  EXPECT_LT(last_step, 500);
  for (const auto& call : calls) {
    EXPECT_EQ(call->ReadToEnd().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_TRUE(Execute(Request(1, {0, 1, 2})).status.ok());
}

TEST_F(BatchedWorkerTest, ARankThatFailsFailsEveryCall) {
  StartBatched({.before_step = [](const ImageRequest&, int step) {
    if (step == 2) throw std::runtime_error("a broken rank");
  }});
  std::vector<std::unique_ptr<Call>> calls;
  for (const uint64_t seed : {10, 20, 30}) calls.push_back(BeginOf(seed));
  for (const auto& call : calls) {
    const grpc::Status status = call->ReadToEnd();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
    EXPECT_EQ(ReasonIn(status), "INTERNAL");
  }
  EXPECT_EQ(failed_.get_future().get().message(), "a broken rank");
}

TEST_F(BatchedWorkerTest, FiniteImagesComeBeforeTheWorkerFailsForOnesThatAreNot) {
  StartBatched({.after = [](const ImageRequest& request, Generated& made) {
    made.faults.resize(3);
    for (size_t n = 0; n < 2; ++n) {
      if (request.beside[n].seed != 20) continue;
      made.faults[n + 1] = WithEngineReason(absl::InternalError("not finite"), "NON_FINITE_OUTPUT");
    }
  }});
  const auto first = Open(10);
  const auto second = BeginOf(20);
  const auto third = BeginOf(30);
  EXPECT_TRUE(first->ReadToEnd().ok());
  EXPECT_EQ(first->bytes, BytesOf(10));
  EXPECT_TRUE(third->ReadToEnd().ok());
  EXPECT_EQ(third->bytes, BytesOf(30));
  EXPECT_EQ(ReasonIn(second->ReadToEnd()), "NON_FINITE_OUTPUT");
  EXPECT_EQ(Describe().state(), worker::v1::WORKER_STATE_FAILED);
  EXPECT_EQ(failed_.get_future().get().message(), "not finite");
}

TEST_F(BatchedWorkerTest, StoppingEndsABatchThatIsStillCollected) {
  StartBatched();
  const auto call = Open(10);
  EXPECT_TRUE(worker_->Stop(absl::Seconds(5)));
  EXPECT_EQ(call->ReadToEnd().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(BatchedWorkerTest, TheNextBatchRunsWhileTheImagesOfTheOneBeforeAreEncoded) {
  std::promise<void> go;
  StartEncoding({}, [go_on = go.get_future().share()] { go_on.wait(); });
  AwaitState(worker::v1::WORKER_STATE_READY);
  std::vector<std::unique_ptr<Call>> calls;
  for (const uint64_t seed : {10, 20, 30}) calls.push_back(BeginOf(seed));
  for (const auto& call : calls) EXPECT_TRUE(call->ReadUntilRanksFree());
  for (const uint64_t seed : {40, 50, 60}) calls.push_back(BeginOf(seed));
  EXPECT_TRUE(calls.back()->ReadUntil(
      [](const ExecuteResponse& message) { return message.has_image_trace(); }));
  go.set_value();
  for (size_t i = 0; i < calls.size(); ++i) {
    EXPECT_TRUE(calls[i]->ReadToEnd().ok());
    EXPECT_EQ(calls[i]->bytes, BytesOf(10 * (i + 1)));
  }
}

TEST_F(BatchedWorkerTest, TakesHintsForAWholeBatch) {
  const auto hints = std::make_shared<TextHints>();
  Load([&] {
    auto loaded = LoadFakeGroup(2, {});
    loaded->text_hints = {hints};
    return loaded;
  });
  AwaitState(worker::v1::WORKER_STATE_READY);
  worker::v1::PrepareRequest request;
  worker::v1::PrepareResponse response;
  for (int text = 0; text < 2 * kBatchSize; ++text) request.add_texts(std::to_string(text));
  grpc::ClientContext context;
  EXPECT_TRUE(socket_->stub().Prepare(&context, request, &response).ok());
  EXPECT_EQ(hints->Await({})->size(), size_t{2} * kBatchSize);
  request.add_texts("one more");
  grpc::ClientContext too_many;
  EXPECT_EQ(ReasonIn(socket_->stub().Prepare(&too_many, request, &response)), "INVALID_REQUEST");
}

// Callers of two shapes at once, some of which give up: whoever stays has his own images.
TEST_F(BatchedWorkerTest, CallersNeverGetWhatIsNotTheirs) {
  batch_delay_ = kBatchDelay;
  StartBatched({.step = milliseconds(1)});
  std::atomic<int> made = 0;
  std::atomic<int> given_up = 0;
  const auto caller = [&](unsigned number) {
    std::mt19937 random(number);
    for (unsigned turn = 0; turn < 15; ++turn) {
      const uint64_t seed = number * 15 + turn;
      worker::v1::ExecuteRequest request = RequestOfSeed(seed, random() % 2 == 0 ? 4 : 5);
      if (random() % 4 == 0) request.add_image_indices(1);
      const bool gives_up = random() % 5 == 0;
      for (bool busy = true; busy;) {
        const auto call = Begin(request);
        if (gives_up) {
          call->ReadUntil([](const ExecuteResponse& message) { return message.has_step(); });
          call->context.TryCancel();
        }
        const grpc::Status status = call->ReadToEnd();
        busy = status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED;
        if (busy) {
          std::this_thread::sleep_for(milliseconds(1));
        } else if (status.ok()) {
          ++made;
          EXPECT_EQ(call->bytes,
                    BytesOf(seed) +
                        (request.image_indices_size() > 1 ? BytesOf(seed + 1) : std::string()));
        } else {
          ++given_up;
          EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
          EXPECT_TRUE(gives_up);
        }
      }
    }
  };
  {
    std::vector<std::jthread> callers;
    for (unsigned number = 0; number < 8; ++number) callers.emplace_back(caller, number);
  }
  EXPECT_EQ(made + given_up, 8 * 15);
  EXPECT_GT(made, 60);
  EXPECT_THAT(Passes(), Contains(testing::Gt(1U)));
  AwaitState(worker::v1::WORKER_STATE_READY);
}

}  // namespace
}  // namespace patchflow
