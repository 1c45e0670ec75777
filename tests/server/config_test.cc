#include "server/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace patchflow {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Directory() {
  static const std::string directory = [] {
    auto path = std::filesystem::temp_directory_path() / "patchflow-config-test";
    std::filesystem::create_directories(path / "models/shapes");
    std::filesystem::create_directories(path / "bad name");
    return path.string();
  }();
  return directory;
}

absl::StatusOr<ServerConfig> Parse(const std::string& text) {
  return ParseConfig(text, "server.yaml", Directory());
}

std::string Faults(const std::string& text) {
  auto config = Parse(text);
  return config.ok() ? "" : std::string(config.status().message());
}

const char kGroup[] = "groups: [{model: models/shapes}]\n";

TEST(ConfigTest, TakesDefaults) {
  auto config = Parse(kGroup);
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->groups.size(), 1U);
  const GroupConfig& group = config->groups[0];
  EXPECT_EQ(group.model, Directory() + "/models/shapes");
  EXPECT_EQ(group.model_name, "shapes");
  EXPECT_EQ(group.name, "shapes");
  EXPECT_EQ(group.device, "auto");
  EXPECT_EQ(group.ranks, 1);
  EXPECT_EQ(group.layout, "");
  EXPECT_EQ(config->limits.max_unary_bytes, 4 * 1024 * 1024 - 64 * 1024);
  EXPECT_EQ(config->drain.timeout, absl::Seconds(60));
}

TEST(ConfigTest, ReadsEveryKey) {
  auto config = Parse(R"(
server: {listen: "[::1]:0", metrics: localhost:9090}
groups:
  - name: a
    model: models/shapes
    model_name: stars
    device: cpu
    dtype: float32
    ranks: 4
    threads: 2
    default_guidance: 4.5
    provenance_mark: false
    layout: {pipefusion: 2, patches: 4, guidance: 2, shared_text: true, cuda_graphs: false}
  - {model_name: stars, workers: ["10.0.0.1:7000"]}
limits: {max_pixels: 65536, max_count: 4, max_steps: 50, max_queue: 3, max_unary_bytes: 2048}
drain: {timeout: 1m30s, delay: 0.5}
supervision: {heartbeat_interval: 100ms, heartbeat_timeout: 1s}
log: {level: debug, prompts: true}
security: {workers: {plaintext: true}}
worker_binary: bin/worker
)");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->listen, "[::1]:0");
  EXPECT_EQ(config->groups[0].layout,
            "pipefusion=2,patches=4,guidance=2,shared_text=1,cuda_graphs=0");
  EXPECT_EQ(config->groups[0].default_guidance, 4.5);
  EXPECT_FALSE(config->groups[0].provenance_mark);
  EXPECT_TRUE(config->groups[1].provenance_mark);
  EXPECT_EQ(config->groups[1].workers.at(0), "10.0.0.1:7000");
  EXPECT_EQ(config->groups[1].name, "stars");
  EXPECT_EQ(config->limits.max_queue, 3);
  EXPECT_EQ(config->drain.timeout, absl::Seconds(90));
  EXPECT_EQ(config->drain.delay, absl::Milliseconds(500));
  EXPECT_EQ(config->worker_binary, Directory() + "/bin/worker");
  EXPECT_TRUE(config->log.prompts);
}

TEST(ConfigTest, KnowsEveryDtypeAndNoOther) {
  for (const char* dtype : {"auto", "float32", "bfloat16", "float16", "float8"}) {
    const auto config =
        Parse(std::string("groups: [{model: models/shapes, dtype: ") + dtype + "}]");
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->groups[0].dtype, dtype);
  }
  EXPECT_THAT(Faults("groups: [{model: models/shapes, dtype: float4}]"),
              HasSubstr("groups[0].dtype: 'float4' is none of auto, float32, bfloat16, float16, "
                        "float8"));
}

TEST(ConfigTest, AllowsNoGuidanceThatTheWorkerRefuses) {
  EXPECT_TRUE(Parse("groups: [{model: models/shapes, default_guidance: 50}]").ok());
  EXPECT_THAT(Faults("groups: [{model: models/shapes, default_guidance: 51}]"),
              HasSubstr("groups[0].default_guidance: 51 "));
}

TEST(ConfigTest, PlacesAGroupOnGpus) {
  auto config = Parse("groups: [{model: models/shapes}, {model: models/shapes, first_gpu: 4}]");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->groups[0].first_gpu, 0);
  EXPECT_EQ(config->groups[1].first_gpu, 4);
  const std::string faults = Faults(
      "groups: [{model: models/shapes, first_gpu: 64}, {model: models/shapes, device: cpu, "
      "first_gpu: 1}, {model_name: b, workers: ['h:1'], first_gpu: 1}]");
  EXPECT_THAT(faults, HasSubstr("groups[0].first_gpu: 64 "));
  EXPECT_THAT(faults, HasSubstr("groups[1].first_gpu: has no meaning with 'device: cpu'"));
  EXPECT_THAT(faults, HasSubstr("groups[2].first_gpu: belongs to the worker's own command line"));
}

TEST(ConfigTest, GivesEachStageItsBlocks) {
  auto config = Parse("groups: [{model: models/shapes, layout: {pipefusion: 2, blocks: [3, 5]}}]");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->groups[0].layout, "pipefusion=2,blocks=3+5");
  EXPECT_THAT(Faults("groups: [{model: models/shapes, layout: {blocks: [3, none]}}]"),
              HasSubstr("groups[0].layout.blocks: 'none' is not a number of blocks"));
  EXPECT_THAT(Faults("groups: [{model: models/shapes, layout: {blocks: 3}}]"),
              HasSubstr("groups[0].layout.blocks: a sequence of strings is needed"));
}

TEST(ConfigTest, ReportsEveryFaultWithFileLineAndKey) {
  const std::string faults = Faults(R"(server: {lisen: "127.0.0.1:1", metrics: nowhere}
groups:
  - model: models/none
    ranks: 0
    layout: {pipefuson: 2, patches: two}
  - model: models/shapes
    device: tpu
    threads: "2"
limits:
  max_count: 1.5
  max_queue: [1]
drain: {timeout: soon}
log: {prompts: yes}
)");
  EXPECT_THAT(faults,
              HasSubstr("server.yaml:1: server.lisen: unknown key; did you mean 'listen'?"));
  EXPECT_THAT(faults, HasSubstr("server.yaml:1: server.metrics: 'nowhere' is not host:port"));
  EXPECT_THAT(faults, HasSubstr("server.yaml:3: groups[0].model: no directory '"));
  EXPECT_THAT(faults, HasSubstr("server.yaml:4: groups[0].ranks: 0 is out of range: 1 to 64"));
  EXPECT_THAT(faults, HasSubstr("server.yaml:5: groups[0].layout.pipefuson: unknown key; did you "
                                "mean 'pipefusion'?"));
  EXPECT_THAT(faults, HasSubstr("server.yaml:5: groups[0].layout.patches: a whole number is "
                                "needed, not 'two'"));
  EXPECT_THAT(faults, HasSubstr("server.yaml:7: groups[1].device: 'tpu' is none of auto, cuda, "
                                "cpu"));
  EXPECT_THAT(faults, HasSubstr("server.yaml:8: groups[1].threads: a whole number is needed"));
  EXPECT_THAT(faults, HasSubstr("server.yaml:10: limits.max_count: a whole number is needed"));
  EXPECT_THAT(faults, HasSubstr("server.yaml:11: limits.max_queue: a whole number is needed, not "
                                "a sequence"));
  EXPECT_THAT(faults, HasSubstr("server.yaml:12: drain.timeout: a duration such as 30s is needed"));
  EXPECT_THAT(faults, HasSubstr("server.yaml:13: log.prompts: true or false is needed, not 'yes'"));
}

TEST(ConfigTest, RefusesKeysThatAppearTwice) {
  EXPECT_THAT(Faults("groups: [{model: models/shapes}]\ndrain: {}\ndrain: {}\n"),
              HasSubstr("server.yaml:3: drain: appears twice"));
}

TEST(ConfigTest, ListsTheKnownKeysWhenNoneIsNear) {
  EXPECT_THAT(Faults(std::string(kGroup) + "drain: {zebra: 1}"),
              HasSubstr("drain.zebra: unknown key; known: delay, timeout"));
}

TEST(ConfigTest, RefusesGroupsThatAreNotThere) {
  EXPECT_THAT(Faults("server: {}"), HasSubstr("groups: is required"));
  EXPECT_THAT(Faults("groups: []"), HasSubstr("at least one group is needed"));
  EXPECT_THAT(Faults("groups: {}"), HasSubstr("a sequence of mappings is needed, not a mapping"));
  EXPECT_THAT(Faults("groups: [7]"), HasSubstr("groups[0]: a mapping is needed, not a scalar"));
  EXPECT_THAT(Faults(""), HasSubstr("groups: is required"));
  EXPECT_THAT(Faults("- 1"), HasSubstr("a mapping is needed, not a sequence"));
}

TEST(ConfigTest, RefusesBrokenYamlWithItsLine) {
  EXPECT_THAT(Faults("groups:\n  - {model: x\n  - ]"), HasSubstr("server.yaml:3:"));
}

TEST(ConfigTest, NamesGroupsOfOneModelApart) {
  auto config = Parse(
      "groups: [{model: models/shapes}, {model: models/shapes}, {model: "
      "models/shapes, name: shapes}]");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->groups[0].name, "shapes-2");
  EXPECT_EQ(config->groups[1].name, "shapes-3");
  EXPECT_EQ(config->groups[2].name, "shapes");
}

TEST(ConfigTest, RefusesTwoGroupsOfOneName) {
  EXPECT_THAT(Faults("groups: [{model: models/shapes, name: a}, {model: models/shapes, name: a}]"),
              HasSubstr("groups[1].name: two groups are called 'a'"));
}

TEST(ConfigTest, RefusesAModelNameThatIsNoName) {
  EXPECT_THAT(Faults("groups: [{model: 'bad name'}]"),
              HasSubstr("groups[0].model_name: 'bad name'"));
}

TEST(ConfigTest, RefusesWorkerOptionsOfARemoteWorker) {
  const std::string faults = Faults(
      "groups: [{model_name: a, workers: ['h:1'], ranks: 2}, {model_name: b, workers: "
      "['h:1', 'h:2', 'h:1']}, {workers: ['h']}, {model_name: c, workers: ['h:1'], processes: 2}]");
  EXPECT_THAT(faults, HasSubstr("groups[0].ranks: belongs to the worker's own command line"));
  EXPECT_THAT(faults, HasSubstr("groups[1].workers: 'h:1' is named twice"));
  EXPECT_THAT(faults, HasSubstr("groups[3].processes: belongs to the worker's own command line"));
  EXPECT_THAT(faults, HasSubstr("groups[2].workers: 'h' is not host:port"));
  EXPECT_THAT(faults, HasSubstr("groups[2].model_name: is required"));
}

TEST(ConfigTest, AGroupHasSeveralProcessesOrSeveralHosts) {
  auto config = Parse(
      "groups: [{model: models/shapes, ranks: 4, processes: 2}, {model_name: b, workers: "
      "['h:1', 'h:2', 'h:3']}]\nsecurity: {workers: {plaintext: true}}");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->groups[0].local());
  EXPECT_EQ(config->groups[0].members(), 2);
  EXPECT_FALSE(config->groups[1].local());
  EXPECT_EQ(config->groups[1].members(), 3);
  EXPECT_THAT(Faults("groups: [{model: models/shapes, ranks: 4, processes: 3}]"),
              HasSubstr("groups[0].processes: 3 can't share 4 ranks evenly"));
}

TEST(ConfigTest, RefusesAHeartbeatTimeoutBelowTwoBeats) {
  EXPECT_THAT(Faults(std::string(kGroup) + "supervision: {heartbeat_interval: 2s}"),
              HasSubstr("less than two heartbeat intervals"));
}

TEST(ConfigTest, ReadsWhatKeepsOthersOut) {
  auto config = Parse(std::string(kGroup) + R"(
server: {listen: "0.0.0.0:1", health: "0.0.0.0:2", admin: "127.0.0.1:3"}
security:
  tls: {certificate: tls.crt, key: /etc/tls.key, client_ca: ca.crt, refresh: 1s}
  tokens: tokens.yaml
limits: {max_queue_work: 10m, requests_per_second: 2.5, burst: 7, max_streams: 9,
         max_connection_age: 5m}
audit: {file: audit.jsonl, max_bytes: 4096, max_files: 3, max_delay: 500ms, sync: true}
store: {directory: store, max_bytes: 2097152, max_age: 1h, max_wait: 3s}
)");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->health, "0.0.0.0:2");
  EXPECT_EQ(config->admin, "127.0.0.1:3");
  EXPECT_EQ(config->security.tls.certificate, Directory() + "/tls.crt");
  EXPECT_EQ(config->security.tls.key, "/etc/tls.key");
  EXPECT_EQ(config->security.tls.client_ca, Directory() + "/ca.crt");
  EXPECT_EQ(config->security.tls.refresh, absl::Seconds(1));
  EXPECT_EQ(config->security.tokens, Directory() + "/tokens.yaml");
  EXPECT_EQ(config->limits.max_queue_work, absl::Minutes(10));
  EXPECT_EQ(config->limits.requests_per_second, 2.5);
  EXPECT_EQ(config->limits.burst, 7);
  EXPECT_EQ(config->limits.max_streams, 9);
  EXPECT_EQ(config->limits.max_connection_age, absl::Minutes(5));
  EXPECT_EQ(config->audit.file, Directory() + "/audit.jsonl");
  EXPECT_EQ(config->audit.max_files, 3);
  EXPECT_EQ(config->store.directory, Directory() + "/store");
  EXPECT_EQ(config->store.max_bytes, 2 << 20);
  EXPECT_EQ(config->store.max_age, absl::Hours(1));
  EXPECT_EQ(config->audit.max_delay, absl::Milliseconds(500));
  EXPECT_TRUE(config->audit.sync);
  EXPECT_EQ(config->store.max_wait, absl::Seconds(3));
}

TEST(ConfigTest, ReadsWhereTracesGo) {
  EXPECT_EQ(Parse(kGroup)->tracing.otlp, "") << "off";
  EXPECT_EQ(Parse(kGroup)->tracing.recent, 1000);
  auto config = Parse(std::string(kGroup) +
                      "tracing: {otlp: \"c:4317\", ca: ca.crt, service_name: images, "
                      "sample_ratio: 0.25, queue: 7, recent: 0}\n");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->tracing.otlp, "c:4317");
  EXPECT_EQ(config->tracing.ca, Directory() + "/ca.crt");
  EXPECT_EQ(config->tracing.service_name, "images");
  EXPECT_EQ(config->tracing.sample_ratio, 0.25);
  EXPECT_EQ(config->tracing.queue, 7);
  EXPECT_EQ(config->tracing.recent, 0);
  const auto faults_of = [](const std::string& tracing) {
    return Faults(std::string(kGroup) + "tracing: " + tracing + "\n");
  };
  EXPECT_THAT(faults_of("{otlp: collector}"), HasSubstr("tracing.otlp: 'collector' is not host:"));
  EXPECT_THAT(faults_of("{otlp: \"c:1\", sample_ratio: 2}"), HasSubstr("tracing.sample_ratio"));
  EXPECT_THAT(faults_of("{sample_ratio: 0.5}"),
              HasSubstr("tracing.sample_ratio: has no meaning without 'otlp'"));
  EXPECT_EQ(faults_of("{recent: 10}"), "") << "kept without a collector";
}

TEST(ConfigTest, RefusesTokensThatWouldTravelUnencrypted) {
  const std::string tokens = std::string(kGroup) + "security: {tokens: t}\n";
  EXPECT_THAT(Faults(tokens + "server: {listen: '0.0.0.0:1'}"),
              HasSubstr("security.tokens: would travel unencrypted to server.listen 0.0.0.0:1"));
  for (const std::string here : {"127.0.0.1:1", "localhost:1", "'[::1]:1'", "unix:/tmp/s"}) {
    EXPECT_TRUE(Parse(tokens + "server: {listen: " + here + "}").ok()) << here;
  }
}

TEST(ConfigTest, RefusesHalfOfATlsPair) {
  EXPECT_THAT(Faults(std::string(kGroup) + "security: {tls: {certificate: a}}"),
              HasSubstr("security.tls: 'certificate' and 'key' go together"));
  EXPECT_THAT(Faults(std::string(kGroup) + "security: {tls: {client_ca: a}}"),
              HasSubstr("security.tls.client_ca: has no meaning without"));
}

TEST(ConfigTest, RefusesWorkersThatWouldBeReachedUnencrypted) {
  const std::string far = "groups: [{model_name: m, workers: ['gpu-1:7000', 'gpu-2:7000']}]\n";
  EXPECT_THAT(Faults(far),
              HasSubstr("groups[0].workers: 'gpu-1:7000' would be reached unencrypted"));
  EXPECT_EQ(Faults(far + "security: {workers: {plaintext: true}}"), "");
  for (const std::string here : {"127.0.0.1:7000", "localhost:7000", "unix:/run/worker"}) {
    EXPECT_EQ(Faults("groups: [{model_name: m, workers: ['" + here + "']}]"), "") << here;
  }
  auto config = Parse(far + "security: {workers: {certificate: w.crt, key: w.key, ca: ca.crt}}");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->security.workers.tls.certificate, Directory() + "/w.crt");
  EXPECT_EQ(config->security.workers.tls.key, Directory() + "/w.key");
  EXPECT_EQ(config->security.workers.tls.client_ca, Directory() + "/ca.crt");
  EXPECT_FALSE(config->security.tls.on());
  EXPECT_THAT(Faults(far + "security: {workers: {certificate: w.crt, key: w.key}}"),
              HasSubstr("'certificate', 'key' and 'ca' go together"));
  EXPECT_THAT(Faults(far + "security: {workers: {certificate: a, key: b, ca: c, plaintext: true}}"),
              HasSubstr("security.workers.plaintext: has no meaning with 'certificate'"));
}

TEST(ConfigTest, RefusesAnAdminListenerThatOthersReach) {
  EXPECT_THAT(Faults(std::string(kGroup) + "server: {admin: '0.0.0.0:3'}"),
              HasSubstr("server.admin: '0.0.0.0:3' is open to other hosts"));
}

TEST(ConfigTest, SaysWhichFileIsAbsent) {
  auto config = LoadConfig("/nowhere/server.yaml");
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(config.status().message()), HasSubstr("/nowhere/server.yaml"));
}

TEST(ConfigTest, ResolvesPathsFromTheFile) {
  const std::string file = Directory() + "/server.yaml";
  std::ofstream(file) << kGroup;
  auto config = LoadConfig(file);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->groups[0].model, Directory() + "/models/shapes");
  EXPECT_THAT(Faults(kGroup), Not(HasSubstr("no directory")));
}

}  // namespace
}  // namespace patchflow
