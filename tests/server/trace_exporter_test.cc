#include "server/trace_exporter.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "tests/server/generations.h"

namespace patchflow {
namespace {

// A collector that answers as it is told.
class Collector {
 public:
  TraceExporter::Send Send() {
    return [this](const TraceExporter::Request& request, absl::Duration timeout) {
      std::unique_lock<std::mutex> lock(mutex_);
      ++calls;
      last_timeout = timeout;
      open_.wait_for(lock, ToClock(timeout), [this] { return !closed_; });
      if (closed_) {
        return absl::DeadlineExceededError("closed");
      }
      if (!answer.ok()) {
        return answer;
      }
      for (const auto& resource : request.resource_spans()) {
        for (const auto& scope : resource.scope_spans()) {
          for (const auto& span : scope.spans()) {
            roots += span.name() == "patchflow.generate" ? 1 : 0;
          }
        }
      }
      last = request;
      return absl::OkStatus();
    };
  }
  void Close(bool closed) {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_ = closed;
    open_.notify_all();
  }

  std::atomic<int> calls = 0;
  std::atomic<int> roots = 0;
  absl::Status answer;
  absl::Duration last_timeout;
  TraceExporter::Request last;

 private:
  std::mutex mutex_;
  std::condition_variable open_;
  bool closed_ = false;
};

class TraceExporterTest : public ::testing::Test {
 protected:
  void Start(TraceExporter::Options options = {}) {
    options.settle = std::min(options.settle, absl::Milliseconds(5));
    options.back_off = absl::Milliseconds(1);
    exporter_ = std::make_unique<TraceExporter>(options, collector_.Send(), metrics_.tracing());
  }
  void Offer(int traces) {
    const GenerationSpec spec = TestSpec("r");
    for (int i = 0; i < traces; ++i) {
      auto trace = std::make_shared<RequestTrace>(spec, TraceOrigin{}, true);
      trace->End(absl::OkStatus());
      exporter_->Offer(std::move(trace));
    }
  }
  double exported() const { return metrics_.tracing().exported->Value(); }
  double queue_full() const { return metrics_.tracing().dropped_queue_full->Value(); }
  double failed() const { return metrics_.tracing().dropped_failed->Value(); }

  Metrics metrics_{{"shapes"}, {"g"}};
  Collector collector_;
  std::unique_ptr<TraceExporter> exporter_;
};

TEST_F(TraceExporterTest, SendsWhatHasSettledWithTheServersName) {
  Start({.service_name = "images", .instance = "i-1"});
  Offer(3);
  EXPECT_TRUE(Eventually([&] { return exported() == 3; }));
  EXPECT_EQ(collector_.roots, 3);
  const auto& resource = collector_.last.resource_spans(0).resource();
  EXPECT_EQ(resource.attributes(0).key(), "service.name");
  EXPECT_EQ(resource.attributes(0).value().string_value(), "images");
  EXPECT_EQ(resource.attributes(2).value().string_value(), "i-1");
}

TEST_F(TraceExporterTest, NeverBlocksAndCountsWhatItDrops) {
  collector_.Close(true);
  Start({.max_waiting = 10});
  Offer(1);
  ASSERT_TRUE(Eventually([&] { return collector_.calls == 1; }));
  const auto began = Clock::now();
  Offer(200);
  EXPECT_LT(Clock::now() - began, std::chrono::seconds(2)) << "the collector takes 10 s";
  EXPECT_EQ(queue_full(), 190);
  collector_.Close(false);
  EXPECT_TRUE(Eventually([&] { return exported() == 11; }));
}

TEST_F(TraceExporterTest, TriesAgainWhenTheCollectorIsNotThere) {
  collector_.answer = absl::UnavailableError("not yet");
  Start();
  Offer(2);
  EXPECT_TRUE(Eventually([&] { return failed() == 2; }));
  EXPECT_EQ(collector_.calls, 5);
  EXPECT_EQ(exported(), 0);
}

TEST_F(TraceExporterTest, DoesNotTryAgainWhatTheCollectorRefuses) {
  collector_.answer = absl::InvalidArgumentError("no");
  Start();
  Offer(1);
  EXPECT_TRUE(Eventually([&] { return failed() == 1; }));
  EXPECT_EQ(collector_.calls, 1);
}

TEST_F(TraceExporterTest, SendsWhatWaitsWhenItEnds) {
  Start({.settle = absl::Hours(1)});
  exporter_.reset();
  exporter_ = std::make_unique<TraceExporter>(TraceExporter::Options{.settle = absl::Hours(1)},
                                              collector_.Send(), metrics_.tracing());
  Offer(300);
  exporter_.reset();
  EXPECT_EQ(exported(), 300);
  EXPECT_LE(collector_.last_timeout, absl::Seconds(2));
}

TEST_F(TraceExporterTest, EndsInTimeThoughTheCollectorHangs) {
  collector_.Close(true);
  Start({.last_tries = absl::Milliseconds(200)});
  exporter_.reset();
  exporter_ = std::make_unique<TraceExporter>(
      TraceExporter::Options{.settle = absl::Hours(1), .last_tries = absl::Milliseconds(200)},
      collector_.Send(), metrics_.tracing());
  Offer(300);
  const auto began = Clock::now();
  exporter_.reset();
  EXPECT_LT(Clock::now() - began, std::chrono::seconds(5));
  EXPECT_EQ(failed(), 300);
}

}  // namespace
}  // namespace patchflow
