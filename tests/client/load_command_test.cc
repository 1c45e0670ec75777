// patchflow load, as a user calls it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "client/commands.h"
#include "client/load_report.h"
#include "tests/client/fake_service.h"
#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

class LoadCommandTest : public testing::Test {
 protected:
  int Load(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"patchflow", "load", "--server", server_.address()});
    std::vector<const char*> argv;
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    out_.str("");
    err_.str("");
    return RunClient(static_cast<int>(argv.size()), argv.data(), console_, interrupt_);
  }

  ScratchFolder folder_;
  FakeService service_;
  FakeServer server_{service_};
  std::ostringstream out_;
  std::ostringstream err_;
  Console console_{out_, err_};
  Interrupt interrupt_;
};

TEST_F(LoadCommandTest, TellsPeopleATable) {
  EXPECT_EQ(Load({"-c", "2", "-n", "20"}), kExitOk) << err_.str();
  EXPECT_THAT(out_.str(), ContainsRegex("concurrency 2: 20 sent in [0-9.]+ s, 20 succeeded"));
  EXPECT_THAT(out_.str(), ContainsRegex("OK +total +20 +[0-9.]+ ms"));
}

TEST_F(LoadCommandTest, TellsProgramsJson) {
  EXPECT_EQ(Load({"-c", "2,3", "-n", "20", "--json", "--quiet", "--mix", "64x64:2", "--limit",
                  "30s", "--records", folder_ / "records"}),
            kExitOk);
  const nlohmann::json report = nlohmann::json::parse(out_.str());
  EXPECT_EQ(report["limit_s"], 30);
  ASSERT_EQ(report["rows"].size(), 2U);
  const nlohmann::json& row = report["rows"][1];
  EXPECT_EQ(row["mode"], "closed");
  EXPECT_EQ(row["concurrency"], 3);
  EXPECT_EQ(row["ended"], 20);
  EXPECT_EQ(row["outcomes"]["OK"]["count"], 20);
  EXPECT_EQ(row["outcomes"]["OK"]["wait_s"]["count"], 20);
  EXPECT_LE(row["outcomes"]["OK"]["wait_s"]["p50"], row["outcomes"]["OK"]["total_s"]["max"]);
  EXPECT_GT(row["goodput_hz"], 0);
  const std::string records = ReadFile(folder_ / "records");
  EXPECT_EQ(std::count(records.begin(), records.end(), '\n'), 40);
}

TEST_F(LoadCommandTest, FailuresAreOutcomesUntilNothingSucceeds) {
  service_.FailWith(ErrorStatus(grpc::RESOURCE_EXHAUSTED, "QUEUE_FULL", "full", 0.01));
  EXPECT_EQ(Load({"-c", "2", "-n", "20"}), kExitOther);
  EXPECT_THAT(out_.str(), ContainsRegex("RESOURCE_EXHAUSTED/QUEUE_FULL +total +20"));
  EXPECT_THAT(err_.str(), HasSubstr("no request succeeded; most ended with RESOURCE_EXHAUSTED"));
  EXPECT_EQ(service_.requests().size(), 20U) << "nothing is tried again";
  service_.FailWith({grpc::UNAVAILABLE, "down"});
  EXPECT_EQ(Load({"-c", "2", "-n", "4"}), kExitUnavailable);
}

TEST_F(LoadCommandTest, ABrokenStreamFailsTheRun) {
  service_.FailWith(grpc::Status::OK);
  EXPECT_EQ(Load({"-c", "1", "-n", "2"}), kExitOther);
  EXPECT_THAT(err_.str(), HasSubstr("2 streams broke the rules"));
}

TEST_F(LoadCommandTest, WrongUsageSendsNothing) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{},
                                             {"-c", "2"},
                                             {"-c", "2", "-r", "5", "-n", "1"},
                                             {"-c", "x", "-n", "1"},
                                             {"-c", "2", "-n", "1", "--retries", "3"},
                                             {"-c", "2", "-n", "1", "--mix", "64"},
                                             {"-c", "2", "-n", "1", "--disconnects", "1", "--tls"},
                                             {"-c", "2", "-n", "1", "--records", "/nowhere/x"}}) {
    EXPECT_EQ(Load(arguments), kExitUsage);
  }
  EXPECT_TRUE(service_.requests().empty());
}

TEST(LoadProgressTextTest, TellsWhereALevelIs) {
  LoadStats stats;
  LoadOutcome outcome;
  outcome.total_s = 0.1;
  outcome.finished = true;
  stats.Add(outcome, absl::Seconds(1), absl::InfiniteFuture());
  outcome.status = absl::CancelledError();
  stats.Add(outcome, absl::Seconds(1), absl::InfiniteFuture());
  const LoadProgress progress{{.rate_hz = 20}, 12.2, 40, 38, stats};
  EXPECT_THAT(LoadProgressText(progress),
              ContainsRegex("rate 20/s, 12 s: 40 sent, 38 in flight, 1 OK, p50 [0-9.]+ ms, p99 "
                            "100.00 ms, 1 ended otherwise"));
}

}  // namespace
}  // namespace patchflow
