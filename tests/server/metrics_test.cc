#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "server/errors.h"

namespace patchflow {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

struct Family {
  std::string help;
  std::string type;
};

struct Exposition {
  std::map<std::string, Family> families;
  std::map<std::string, double> samples;  // By name and labels, as written.
};

Exposition Parse(const std::string& text) {
  Exposition parsed;
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string hash;
    std::string kind;
    std::string name;
    if (line.rfind("# ", 0) == 0) {
      words >> hash >> kind >> name >> std::ws;
      std::string rest;
      std::getline(words, rest);
      (kind == "HELP" ? parsed.families[name].help : parsed.families[name].type) = rest;
    } else if (!line.empty()) {
      const size_t space = line.rfind(' ');
      parsed.samples[line.substr(0, space)] = std::stod(line.substr(space + 1));
    }
  }
  return parsed;
}

class MetricsTest : public ::testing::Test {
 protected:
  Exposition Scrape() {
    return Parse(metrics_.Text([] {}));
  }
  void Use() {
    worker::v1::WatchResponse beat;
    for (int rank = 0; rank < 2; ++rank) {
      auto* status = beat.add_ranks();
      status->set_rank(rank);
      status->set_memory_used_bytes(1000);
      status->set_memory_peak_bytes(2000);
      status->set_memory_total_bytes(4000);
      status->set_communication_bytes(500);
      status->set_device("cpu");
      for (const char* operation : {"allreduce", "allgather", "all2all", "p2p"}) {
        status->add_communication_times()->set_operation(operation);
      }
    }
    metrics_.ranks().Beat("g", beat);
    worker::v1::DescribeResponse info;
    info.set_layout("serial");
    metrics_.ranks().Describe("g", info);
    worker::v1::ImageDone done;
    done.add_step_times();
    metrics_.model("shapes").ObserveImage(v1::EffectiveParams(), done);
    metrics_.CallBegan("GenerateImages");
    metrics_.CallEnded({"shapes", "GenerateImages", "256", absl::OkStatus(), {}});
  }

  Metrics metrics_{{"shapes"}, {"g"}};
};

// Numbers of things, and truths: what has no unit.
const std::set<std::string> kWithoutUnit = {"patchflow_ready",
                                            "patchflow_batch_size",
                                            "patchflow_queue_depth",
                                            "patchflow_queue_depth_by_priority",
                                            "patchflow_queue_capacity",
                                            "patchflow_requests_running",
                                            "patchflow_streams_open",
                                            "patchflow_group_state",
                                            "patchflow_rank_up",
                                            "patchflow_draining",
                                            "patchflow_audit_behind",
                                            "patchflow_audit_waiting_lines",
                                            "patchflow_generations_live",
                                            "patchflow_results_kept",
                                            "patchflow_store_generations",
                                            "patchflow_security_files_broken",
                                            "process_open_fds",
                                            "process_max_fds",
                                            "process_threads"};

std::string UnitOf(const std::string& name) { return name.substr(name.rfind('_') + 1); }

TEST_F(MetricsTest, GivesEveryFamilyHelpAndUnit) {
  Use();
  const std::set<std::string> units = {"seconds", "bytes", "steps", "megapixels", "info"};
  const auto scraped = Scrape();
  ASSERT_GT(scraped.families.size(), 40U);
  for (const auto& [name, family] : scraped.families) {
    EXPECT_THAT(family.help, EndsWith(".")) << name;
    EXPECT_TRUE(name.rfind("patchflow_", 0) == 0 || name.rfind("process_", 0) == 0) << name;
    if (family.type == "counter") {
      EXPECT_EQ(UnitOf(name), "total") << name;
    } else {
      EXPECT_TRUE(units.count(UnitOf(name)) == 1 || kWithoutUnit.count(name) == 1) << name;
    }
  }
}

TEST_F(MetricsTest, HasTheFamiliesThatDashboardsNeed) {
  Use();
  const auto families = Scrape().families;
  for (const char* name : {"requests_total",
                           "requests_rejected_total",
                           "request_duration_seconds",
                           "queue_wait_seconds",
                           "stage_duration_seconds",
                           "denoise_step_duration_seconds",
                           "denoise_steps_total",
                           "images_total",
                           "image_pixels_total",
                           "response_bytes_total",
                           "time_to_first_preview_seconds",
                           "queue_depth",
                           "queue_capacity",
                           "requests_running",
                           "streams_open",
                           "queue_oldest_seconds",
                           "estimated_wait_seconds",
                           "cancel_latency_seconds",
                           "cancellations_total",
                           "requested_steps",
                           "requested_megapixels",
                           "batch_size",
                           "rank_up",
                           "rank_heartbeat_age_seconds",
                           "rank_last_step_age_seconds",
                           "group_state",
                           "group_restarts_total",
                           "worker_losses_total",
                           "watchdog_trips_total",
                           "nccl_errors_total",
                           "gpu_oom_total",
                           "last_image_timestamp_seconds",
                           "worker_build_info",
                           "job_failures_total",
                           "communication_bytes_total",
                           "gpu_memory_bytes",
                           "model_load_seconds",
                           "warmup_seconds",
                           "ready",
                           "build_info",
                           "config_info"}) {
    EXPECT_EQ(families.count(std::string("patchflow_") + name), 1U) << name;
  }
}

TEST_F(MetricsTest, HasWhatAlertsNeedFromTheStart) {
  const auto samples = Scrape().samples;
  for (const char* name :
       {R"(patchflow_requests_total{code="INTERNAL",method="GenerateImages",model="shapes"})",
        R"(patchflow_requests_rejected_total{model="shapes",reason="queue_full"})",
        R"(patchflow_requests_rejected_total{model="none",reason="unauthenticated"})",
        R"(patchflow_worker_losses_total{group="g",reason="heartbeat"})",
        R"(patchflow_watchdog_trips_total{group="g",phase="warm_up"})",
        R"(patchflow_nccl_errors_total{group="g"})", R"(patchflow_group_restarts_total{group="g"})",
        R"(patchflow_group_state{group="g",state="draining"})",
        R"(patchflow_job_failures_total{model="shapes",reason="gpu_out_of_memory"})",
        R"(patchflow_request_duration_seconds_count{code="OK",model="shapes",resolution="1024"})",
        R"(patchflow_cancellations_total{model="shapes",reason="client_cancelled"})"}) {
    auto found = samples.find(name);
    ASSERT_NE(found, samples.end()) << name;
    EXPECT_EQ(found->second, 0) << name;
  }
}

TEST_F(MetricsTest, StaysBelowTwoThousandSeries) {
  Use();
  EXPECT_LT(Scrape().samples.size(), 2000U);
}

TEST_F(MetricsTest, ObservesEachCallOnce) {
  Use();
  metrics_.CallBegan("GenerateImages");
  metrics_.CallBegan("GenerateImages");
  metrics_.CallEnded({"nonsense",
                      "GenerateImages",
                      "",
                      MakeError(absl::StatusCode::kNotFound, reason::kModelNotFound, ""),
                      {}});
  double begun = 0;
  double ended = 0;
  double timed = 0;
  for (const auto& [name, value] : Scrape().samples) {
    begun += name.rfind("patchflow_requests_started_total", 0) == 0 ? value : 0;
    ended += name.rfind("patchflow_requests_total", 0) == 0 ? value : 0;
    timed += name.rfind("patchflow_request_duration_seconds_count", 0) == 0 ? value : 0;
  }
  EXPECT_EQ(begun, 3);
  EXPECT_EQ(ended, 2) << "one call is open";
  EXPECT_EQ(timed, 2);
}

TEST_F(MetricsTest, TellsWhatFrontEndAndWorkersAreMadeOf) {
  worker::v1::DescribeResponse info;
  info.mutable_build()->set_build_id("1f2e");
  info.mutable_build()->set_nccl("2.28.9");
  metrics_.ranks().Describe("g", info);
  const std::string text = metrics_.Text([] {});
  EXPECT_THAT(text, HasSubstr(R"(git_sha="unknown")")) << "only the program knows its commit";
  EXPECT_THAT(text, HasSubstr(R"(torch="2.)"));
  EXPECT_THAT(text, HasSubstr(R"(patchflow_worker_build_info{build_id="1f2e",cuda="",group="g",)"));
}

TEST_F(MetricsTest, CountsAFailedJobByItsReason) {
  const ModelMetrics& model = metrics_.model("shapes");
  model.ObserveJobFailure(absl::UnavailableError("Socket closed"));
  model.ObserveJobFailure(MakeError(absl::StatusCode::kInternal, reason::kNonFiniteOutput, ""));
  EXPECT_EQ(model.job_failures.at(reason::kEngineFailed)->Value(), 1);
  EXPECT_EQ(model.job_failures.at(reason::kNonFiniteOutput)->Value(), 1);
}

TEST_F(MetricsTest, TellsApartTheGroupsThatRanOutOfMemory) {
  Metrics metrics({"shapes"}, {"a", "b"});
  const absl::Status full =
      MakeError(absl::StatusCode::kResourceExhausted, reason::kGpuOutOfMemory, "");
  metrics.model_of("shapes", "b").ObserveJobFailure(full);
  metrics.model_of("shapes", "b").ObserveJobFailure(full);
  metrics.model_of("shapes", "a").ObserveJobFailure(absl::UnavailableError("Socket closed"));
  const auto samples = Parse(metrics.Text([] {})).samples;
  EXPECT_EQ(samples.at(R"(patchflow_gpu_oom_total{group="a"})"), 0);
  EXPECT_EQ(samples.at(R"(patchflow_gpu_oom_total{group="b"})"), 2);
  EXPECT_EQ(
      samples.at(R"(patchflow_job_failures_total{model="shapes",reason="gpu_out_of_memory"})"), 2);
}

TEST_F(MetricsTest, TellsWhenTheLastImageWasMade) {
  const std::string name = R"(patchflow_last_image_timestamp_seconds{model="shapes"})";
  EXPECT_EQ(Scrape().samples.at(name), 0) << "none yet";
  const auto before = static_cast<double>(absl::ToUnixSeconds(absl::Now()));
  metrics_.model("shapes").ObserveImage(v1::EffectiveParams(), worker::v1::ImageDone());
  EXPECT_GE(Scrape().samples.at(name), before);
}

TEST_F(MetricsTest, TellsStepsOfALayoutApart) {
  worker::v1::ImageDone done;
  *done.add_step_times() = ToProto(absl::Seconds(2));
  *done.add_step_times() = ToProto(absl::Seconds(3));
  v1::EffectiveParams params;
  params.set_width(512);
  params.set_height(512);
  for (const char* layout : {"serial", "ring=2", "ring=2"}) {
    params.set_layout(layout);
    metrics_.model("shapes").ObserveImage(params, done);
  }
  const auto samples = Scrape().samples;
  const std::string steps =
      R"(patchflow_denoise_step_duration_seconds_sum{layout="%",model="shapes",resolution="512"})";
  const auto of = [&](const std::string& layout) {
    std::string full = steps;
    return samples.at(full.replace(full.find('%'), 1, layout));
  };
  EXPECT_EQ(of("serial"), 5);
  EXPECT_EQ(of("ring=2"), 10);
}

TEST_F(MetricsTest, TellsWhatTheAuditLogWaitsFor) {
  metrics_.SetAudit(3, 2, absl::Milliseconds(2500), true);
  metrics_.SetAudit(4, 5, absl::Milliseconds(3500), true);
  const auto samples = Scrape().samples;
  EXPECT_EQ(samples.at("patchflow_audit_waiting_lines"), 4);
  EXPECT_EQ(samples.at("patchflow_audit_lost_lines_total"), 5);
  EXPECT_EQ(samples.at("patchflow_audit_delay_seconds"), 3.5);
  EXPECT_EQ(samples.at("patchflow_audit_behind"), 1);
}

TEST_F(MetricsTest, TellsOfTheProcess) {
  const auto samples = Scrape().samples;
  EXPECT_GT(samples.at("process_resident_memory_bytes"), 1e6);
  EXPECT_GT(samples.at("process_open_fds"), 2);
  EXPECT_GT(samples.at("process_start_time_seconds"), 1e9);
  EXPECT_GE(samples.at("process_threads"), 1);
}

}  // namespace
}  // namespace patchflow
