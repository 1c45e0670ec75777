#include "server/dispatcher.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "tests/server/generations.h"
#include "tests/server/scripted_worker.h"
#include "tests/tsan/together.h"

namespace patchflow {
namespace {

constexpr int kGenerations = 60;
constexpr char kIdPrefix[] = "id-";

// How often each generation was lost. None is lost a third time, which would end it.
using Losses = std::array<std::atomic<int>, kGenerations>;

// A group with a worker that makes images on a thread of its own, and loses one job in nine, and
// one tail in eighteen; with batches, it is too busy for one job in seven.
class Device {
 public:
  Device(const std::string& name, RequestQueue& queue, CostModel& costs, Registry& registry,
         Metrics& metrics, Losses& losses, int batch_size)
      : group_({.name = name,
                .model = "",
                .model_name = "shapes",
                .layout = "",
                .batch_size = batch_size,
                .workers = {}}),
        worker_(std::make_shared<ScriptedWorker>([=, this, &losses](int n, ScriptedJob& job) {
          threads_.emplace_back([n, batch_size, &job, &losses] {
            if (batch_size > 1 && n % 7 == 6) {
              job.End(TestError(absl::StatusCode::kResourceExhausted, reason::kWorkerBusy));
              return;
            }
            const auto lose = [&] {
              const int number =
                  std::stoi(job.request.request_id().substr(std::size(kIdPrefix) - 1));
              if (losses.at(number).fetch_add(1, std::memory_order_relaxed) >= 2) {
                return false;
              }
              job.End(absl::UnavailableError("Socket closed"));
              return true;
            };
            job.Step(job.request.image_indices(0), 1);
            if (n % 9 == 8 && lose()) {
              return;
            }
            if (n % 2 == 0) {
              job.RanksFree();  // The images are the tail, beside the next job.
            }
            if (n % 18 == 16 && lose()) {
              return;
            }
            job.Images();
            job.End(absl::OkStatus());
          });
        })) {
    group_.SetServing(worker_, ScriptedWorker::Info());
    dispatcher_ = std::make_unique<Dispatcher>(
        Dispatcher::Parts{group_, queue, costs, registry, metrics.model("shapes")});
  }
  ~Device() {
    group_.Stop();
    dispatcher_.reset();
    for (std::thread& thread : threads_) {
      thread.join();
    }
  }
  // What a supervisor does, and all that others ask of a group.
  void Tend() {
    if (group_.complaint().has_value()) {
      group_.SetLost("lost", LossKind::kJob);
      group_.SetServing(worker_, ScriptedWorker::Info());
    }
    group_.running();
    group_.AtWork();
    group_.last_request_id();
    group_.SilentFor();
    group_.losses();
  }

 private:
  Group group_;
  std::vector<std::thread> threads_;  // Of the dispatcher's thread, and after it of the destructor.
  std::shared_ptr<ScriptedWorker> worker_;
  std::unique_ptr<Dispatcher> dispatcher_;
};

class DispatcherStress : public testing::TestWithParam<int> {};  // Images of a batch.
INSTANTIATE_TEST_SUITE_P(Batches, DispatcherStress, testing::Values(1, 6));

TEST_P(DispatcherStress, EndsEveryGenerationWhileWorkersAreLostAndCallersCancel) {
  RequestQueue queue({.requests = kGenerations});
  CostModel costs;
  Registry registry(1 << 20, absl::Seconds(300));
  Metrics metrics({"shapes"}, {"a", "b"});
  std::vector<std::shared_ptr<Generation>> generations;
  for (int i = 0; i < kGenerations; ++i) {
    GenerationSpec spec = TestSpec(absl::StrCat(kIdPrefix, i), 2);
    spec.fingerprint = spec.request_id;
    generations.push_back(MakeGeneration(std::move(spec)));
  }
  const auto ended = [&] {
    return std::all_of(generations.begin(), generations.end(),
                       [](const auto& generation) { return generation->ended(); });
  };
  Losses losses = {};
  Device a("a", queue, costs, registry, metrics, losses, GetParam());
  Device b("b", queue, costs, registry, metrics, losses, GetParam());
  const auto until = Clock::now() + std::chrono::seconds(40);
  Together({[&] {
              for (const auto& generation : generations) {
                EXPECT_TRUE(queue.Push(generation).ok());
              }
            },
            [&] {
              for (int i = 0; i < kGenerations; i += 7) {
                generations[i]->End(
                    TestError(absl::StatusCode::kCancelled, reason::kCancelledByRequest));
                queue.Remove(*generations[i]);
                std::this_thread::sleep_for(std::chrono::milliseconds(2));
              }
            },
            [&] {
              while (!ended() && Clock::now() < until) {
                costs.Expect("plan-1", generations[0]->spec().params());
                // In a row: other locks between these would order them for the sanitizer.
                for (int round = 0; round < 50; ++round) {
                  a.Tend();
                  b.Tend();
                  std::this_thread::yield();
                }
              }
            }});
  EXPECT_TRUE(ended());
  for (int i = 0; i < kGenerations; ++i) {
    const Standing standing = generations[i]->standing();
    EXPECT_TRUE(standing.status.ok() || i % 7 == 0) << i << ": " << standing.status;
  }
  queue.Close();
}

}  // namespace
}  // namespace patchflow
