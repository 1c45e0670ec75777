#include "client/load_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "absl/time/clock.h"
#include "tests/client/fake_service.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::UnorderedElementsAre;

grpc::Status Hang(grpc::ServerContext& context) {
  while (!context.IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
  return grpc::Status::CANCELLED;
}

class LoadRunTest : public testing::Test {
 protected:
  LoadRunTest() {
    options_.concurrencies = {4};
    options_.requests = 40;
    connection_.timeout = "20s";
  }

  // The rows; `records_` afterwards has the records.
  std::vector<LoadRow> Run() {
    if (!server_) server_ = std::make_unique<FakeServer>(service_);
    connection_.server = server_->address();
    const LoadPlan plan = MakeLoadPlan(options_).value();
    std::vector<Connection> connections;
    for (int i = 0; i < options_.connections; ++i)
      connections.push_back(Connection::Open(connection_).value());
    std::ostringstream lines;
    std::vector<LoadRow> rows = RunLoad({.plan = plan,
                                         .connections = connections,
                                         .address = server_->address(),
                                         .records = &lines},
                                        interrupt_);
    records_.clear();
    std::istringstream in(lines.str());
    for (std::string line; std::getline(in, line);) records_.push_back(nlohmann::json::parse(line));
    return rows;
  }
  // All requests hang until their client leaves.
  void HangAll() {
    service_.on_generate = [](grpc::ServerContext& context,
                              const v1::GenerateImagesRequest& request,
                              const FakeService::Write& write) {
      Script script(request.request_id());
      write(script.Accepted(1, request.sampling().seed()));
      return Hang(context);
    };
  }

  FakeService service_;
  std::unique_ptr<FakeServer> server_;
  LoadOptions options_;
  ConnectionOptions connection_;
  Interrupt interrupt_;
  std::vector<nlohmann::json> records_;
};

TEST_F(LoadRunTest, AClosedLoopKeepsItsClientsBusyAndSendsItsRequests) {
  std::atomic<int> inside = 0;
  std::atomic<int> most = 0;
  service_.on_generate = [&](grpc::ServerContext&, const v1::GenerateImagesRequest& request,
                             const FakeService::Write& write) {
    const int now = ++inside;
    for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) continue;
    absl::SleepFor(absl::Milliseconds(20));
    for (const auto& message : WholeGeneration(request).messages) write(message);
    --inside;
    return grpc::Status::OK;
  };
  const std::vector<LoadRow> rows = Run();
  ASSERT_EQ(rows.size(), 1U);
  const LoadStats& stats = rows[0].stats;
  EXPECT_EQ(stats.sent, 40);
  EXPECT_EQ(stats.succeeded(), 40);
  EXPECT_EQ(stats.images, 40);
  EXPECT_LE(most, 4);
  EXPECT_GE(most, 3);
  const Percentiles& total = stats.outcomes.at("OK").total;
  EXPECT_GE(total.Quantile(0.01), 0.0199);
  EXPECT_GE(stats.window_s, 0.2);
  EXPECT_NEAR(stats.throughput_hz(), 40 / stats.window_s, 1e-6);
  std::set<std::string> ids;
  for (const nlohmann::json& record : records_) ids.insert(record["request_id"]);
  EXPECT_EQ(ids.size(), 40U);
}

TEST_F(LoadRunTest, ARecordSaysWhatCame) {
  options_.requests = 1;
  Run();
  const v1::GenerateImagesRequest request = service_.requests().at(0);
  ASSERT_EQ(records_.size(), 1U);
  const nlohmann::json& record = records_[0];
  const uint64_t seed = request.sampling().seed();
  EXPECT_EQ(record["request_id"], request.request_id());
  EXPECT_EQ(record["prompt"], "load test 0");
  EXPECT_EQ(record["seed"], seed);
  EXPECT_EQ(record["code"], "OK");
  EXPECT_EQ(record["ending"], "wait");
  ASSERT_EQ(record["images"].size(), 1U);
  std::string hash;
  for (unsigned char byte : HashOf(ImageBytes(seed)))
    hash += absl::StrCat(absl::Hex(byte, absl::kZeroPad2));
  EXPECT_EQ(record["images"][0]["sha256"], hash);
}

TEST_F(LoadRunTest, AnOpenLoopSendsWhatEverTheServerDoes) {
  options_.concurrencies.clear();
  options_.rates = {200};
  options_.requests = 0;
  options_.duration = "500ms";
  options_.cancels = 1;
  options_.within = "2s";
  HangAll();
  const std::vector<LoadRow> rows = Run();
  EXPECT_GT(rows[0].stats.sent, 50);
  EXPECT_LT(rows[0].stats.sent, 150);
  EXPECT_EQ(rows[0].stats.ended(), rows[0].stats.sent);
  EXPECT_DOUBLE_EQ(rows[0].stats.window_s, 0.5);
}

TEST_F(LoadRunTest, ArrivalsBeyondTheMostInFlightAreCounted) {
  options_.concurrencies.clear();
  options_.rates = {200};
  options_.requests = 0;
  options_.duration = "300ms";
  options_.max_in_flight = 2;
  options_.deadlines = 1;
  options_.within = "20s";
  connection_.timeout = "1s";
  HangAll();
  std::jthread stop([this] {
    absl::SleepFor(absl::Milliseconds(400));
    interrupt_.Trigger();
  });
  const std::vector<LoadRow> rows = Run();
  EXPECT_LE(rows[0].stats.sent, 4);
  EXPECT_GT(rows[0].stats.not_sent, 20);
}

TEST_F(LoadRunTest, EveryWayToLeaveEndsTheCall) {
  HangAll();
  std::atomic<int> cancel_calls = 0;
  service_.on_cancel = [&](const std::string&, v1::CancelGenerationResponse&) {
    ++cancel_calls;
    return grpc::Status::OK;
  };
  options_.within = "50ms";
  options_.requests = 8;
  connection_.timeout = "1s";
  options_.cancels = 1;
  EXPECT_THAT(Run()[0].stats.outcomes, ElementsAre(Key("CANCELLED")));
  options_.cancels = 0;
  options_.disconnects = 1;
  EXPECT_THAT(Run()[0].stats.outcomes, ElementsAre(Key("UNAVAILABLE")));
  options_.disconnects = 0;
  options_.deadlines = 1;
  const auto start = absl::Now();
  EXPECT_THAT(Run()[0].stats.outcomes, ElementsAre(Key("DEADLINE_EXCEEDED")));
  EXPECT_LT(absl::Now() - start, absl::Seconds(1)) << "its own deadline, not the connection's";
  options_.deadlines = 0;
  options_.cancel_calls = 1;
  EXPECT_THAT(Run()[0].stats.outcomes, ElementsAre(Key("DEADLINE_EXCEEDED")));
  EXPECT_EQ(cancel_calls, 8);
}

TEST_F(LoadRunTest, ARunWaitsForTheAnswersToItsCancelCalls) {
  std::atomic<int> cancelled = 0;
  std::atomic<int> answered = 0;
  service_.on_generate = [&](grpc::ServerContext&, const v1::GenerateImagesRequest&,
                             const FakeService::Write&) {
    while (cancelled < options_.requests) absl::SleepFor(absl::Milliseconds(1));
    return grpc::Status::CANCELLED;
  };
  service_.on_cancel = [&](const std::string&, v1::CancelGenerationResponse&) {
    ++cancelled;
    absl::SleepFor(absl::Milliseconds(300));
    ++answered;
    return grpc::Status::OK;
  };
  options_.cancel_calls = 1;
  options_.within = "5ms";
  options_.requests = 4;
  EXPECT_THAT(Run()[0].stats.outcomes, ElementsAre(Key("CANCELLED")));
  EXPECT_EQ(answered, 4);
}

TEST_F(LoadRunTest, ADisconnectedClientIsGoneForTheServer) {
  std::atomic<int> gone = 0;
  service_.on_generate = [&](grpc::ServerContext& context, const v1::GenerateImagesRequest&,
                             const FakeService::Write&) {
    const grpc::Status status = Hang(context);
    ++gone;
    return status;
  };
  options_.disconnects = 1;
  options_.within = "50ms";
  options_.requests = 5;
  Run();
  const absl::Time limit = absl::Now() + absl::Seconds(10);
  // A connection that was cut before the request was on it brings the server nothing.
  while (gone < static_cast<int>(service_.requests().size()) && absl::Now() < limit)
    absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(gone, static_cast<int>(service_.requests().size()));
  EXPECT_GT(gone, 0);
}

TEST_F(LoadRunTest, ABrokenStreamIsDataLoss) {
  service_.on_generate = [](grpc::ServerContext&, const v1::GenerateImagesRequest& request,
                            const FakeService::Write& write) {
    Script script = WholeGeneration(request);
    script.messages[3].mutable_image_header()->set_sha256("other");
    for (const auto& message : script.messages) write(message);
    return grpc::Status::OK;
  };
  options_.requests = 3;
  const std::vector<LoadRow> rows = Run();
  EXPECT_EQ(rows[0].stats.broken(), 3);
  EXPECT_EQ(rows[0].stats.succeeded(), 0);
}

TEST_F(LoadRunTest, TheWarmUpDoesNotCount) {
  options_.requests = 0;
  options_.duration = "200ms";
  options_.warm_up = "200ms";
  service_.on_generate = [](grpc::ServerContext&, const v1::GenerateImagesRequest& request,
                            const FakeService::Write& write) {
    absl::SleepFor(absl::Milliseconds(10));
    for (const auto& message : WholeGeneration(request).messages) write(message);
    return grpc::Status::OK;
  };
  const LoadStats stats = Run()[0].stats;
  EXPECT_GT(stats.sent, 0);
  EXPECT_LT(stats.sent, 0.8 * static_cast<double>(service_.requests().size()));
  EXPECT_EQ(stats.ended(), stats.sent);
  EXPECT_EQ(records_.size(), service_.requests().size());
}

TEST_F(LoadRunTest, LevelsFollowEachOtherWithNumbersOfTheirOwn) {
  options_.concurrencies = {1, 3};
  options_.requests = 10;
  options_.connections = 2;
  const std::vector<LoadRow> rows = Run();
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].level.concurrency, 1);
  EXPECT_EQ(rows[1].stats.succeeded(), 10);
  std::set<int> numbers;
  for (const nlohmann::json& record : records_) numbers.insert(record["number"].get<int>());
  EXPECT_EQ(numbers.size(), 20U);
  EXPECT_EQ(*numbers.rbegin(), 19);
}

TEST_F(LoadRunTest, TheInterruptEndsItAtOnce) {
  HangAll();
  options_.concurrencies = {4, 8};
  std::jthread stop([this] {
    absl::SleepFor(absl::Milliseconds(100));
    interrupt_.Trigger();
  });
  const absl::Time start = absl::Now();
  const std::vector<LoadRow> rows = Run();
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_THAT(rows[0].stats.outcomes, UnorderedElementsAre(Key("CANCELLED")));
}

TEST_F(LoadRunTest, NoServerIsUnavailable) {
  Run();
  server_.reset();
  connection_.timeout = "2s";
  connection_.server = "127.0.0.1:1";
  options_.requests = 6;
  options_.disconnects = 0.5;
  const LoadPlan plan = MakeLoadPlan(options_).value();
  std::vector<Connection> connections;
  connections.push_back(Connection::Open(connection_).value());
  const auto rows = RunLoad(
      {.plan = plan, .connections = connections, .address = connection_.server}, interrupt_);
  EXPECT_THAT(rows[0].stats.outcomes, ElementsAre(Key("UNAVAILABLE")));
  EXPECT_EQ(rows[0].stats.ended(), 6);
}

}  // namespace
}  // namespace patchflow
