#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "client/chrome_trace.h"
#include "client/commands.h"
#include "tests/client/fake_service.h"
#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using nlohmann::json;

v1::TraceSpan& Add(v1::GetGenerationTraceResponse& trace, const char* name, const char* row,
                   int64_t begin_us, int64_t end_us) {
  v1::TraceSpan& span = *trace.add_spans();
  span.set_name(name);
  span.set_row(row);
  span.set_span_id("00000000000000a1");
  span.set_begin_ns(1000 * begin_us);
  span.set_end_ns(1000 * end_us);
  return span;
}

void FillTrace(v1::GetGenerationTraceResponse& trace) {
  trace.set_request_id("r-1");
  trace.set_trace_id("0af7651916cd43dd8448eb211c80319c");
  trace.mutable_begin_time()->set_seconds(1'000'000'000);
  (*Add(trace, "generate", "front end", 0, 900).mutable_attributes())["model"] = "shapes";
  (*Add(trace, "rank", "rank 10", 100, 800).mutable_attributes())["image"] = "1";
  v1::TraceSpan& steps = Add(trace, "steps", "rank 10", 200, 600);
  steps.set_steps_begin_ns(250'000);
  steps.add_step_times_ns(100'500);
  steps.add_step_times_ns(200'000);
  (*Add(trace, "encode", "encoder", 700, 800).mutable_attributes())["image"] = "1";
  Add(trace, "rank", "rank 2", 100, 800);
}

class TraceCommandTest : public testing::Test {
 protected:
  TraceCommandTest() {
    service_.on_trace = [](const std::string& request_id, v1::GetGenerationTraceResponse& trace) {
      if (request_id != "r-1") return grpc::Status(grpc::StatusCode::NOT_FOUND, "no trace");
      FillTrace(trace);
      return grpc::Status::OK;
    };
  }
  int Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"patchflow", "trace"});
    arguments.insert(arguments.end(), {"--server", server_.address()});
    std::vector<const char*> argv;
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    Console console{out_, err_};
    Interrupt interrupt;
    return RunClient(static_cast<int>(argv.size()), argv.data(), console, interrupt);
  }
  // Of the standard output: the complete events with this name.
  std::vector<json> Named(const std::string& name) {
    std::vector<json> found;
    const json all = json::parse(out_.str());
    for (const json& event : all["traceEvents"]) {
      if (event["ph"] == "X" && event["name"] == name) found.push_back(event);
    }
    return found;
  }

  ScratchFolder folder_;
  FakeService service_;
  FakeServer server_{service_};
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(TraceCommandTest, PrintsAnEventForEachSpanAndStep) {
  ASSERT_EQ(Run({"r-1"}), kExitOk) << err_.str();
  const json generate = Named("generate").at(0);
  EXPECT_EQ(generate["ts"], 0.0);
  EXPECT_EQ(generate["dur"], 900.0);
  EXPECT_EQ(generate["args"]["model"], "shapes");
  EXPECT_EQ(Named("step 1").at(0)["ts"], 250.0);
  EXPECT_EQ(Named("step 1").at(0)["dur"], 100.5);
  EXPECT_EQ(Named("step 2").at(0)["ts"], 350.5);
  EXPECT_EQ(Named("step 2").at(0)["dur"], 200.0);
  EXPECT_EQ(Named("image 1").size(), 1U) << "a rank's share of an image";
  EXPECT_EQ(Named("encode image 1").size(), 1U);
  const json other = json::parse(out_.str())["otherData"];
  EXPECT_EQ(other["trace_id"], "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(other["begin_time"], "2001-09-09T01:46:40Z");
}

TEST_F(TraceCommandTest, ShowsTheFrontEndThenTheRanksInOrder) {
  ASSERT_EQ(Run({"r-1"}), kExitOk);
  std::vector<std::string> rows;
  const json all = json::parse(out_.str());
  for (const json& event : all["traceEvents"]) {
    if (event["name"] == "thread_name") {
      EXPECT_EQ(event["tid"], rows.size() + 1);
      rows.push_back(event["args"]["name"]);
    }
  }
  EXPECT_THAT(rows, testing::ElementsAre("front end", "rank 2", "rank 10", "encoder"));
  EXPECT_EQ(Named("steps").at(0)["tid"], 3);
  EXPECT_EQ(Named("step 1").at(0)["tid"], 3);
}

TEST_F(TraceCommandTest, WritesAFile) {
  ASSERT_EQ(Run({"r-1", "--out", folder_ / "trace.json"}), kExitOk) << err_.str();
  EXPECT_EQ(out_.str(), "");
  std::ifstream file(folder_ / "trace.json");
  EXPECT_EQ(json::parse(file)["otherData"]["request_id"], "r-1");
  EXPECT_NE(Run({"r-1", "--out", folder_ / "trace.json" + std::string("/x")}), kExitOk);
}

TEST_F(TraceCommandTest, TellsThatThereIsNoTrace) {
  EXPECT_EQ(Run({"unknown"}), 3);
  EXPECT_THAT(err_.str(), testing::HasSubstr("no trace"));
  EXPECT_EQ(out_.str(), "");
  EXPECT_EQ(Run({}), kExitUsage);
}

}  // namespace
}  // namespace patchflow
