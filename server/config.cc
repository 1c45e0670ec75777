#include "server/config.h"

#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/config_batching.h"
#include "server/config_outputs.h"
#include "server/config_reader.h"
#include "server/config_values.h"
#include "server/config_warmup.h"

namespace patchflow {
namespace {

constexpr int64_t kMaxFileBytes = 1 << 20;
constexpr size_t kMaxWorkers = 64;
constexpr double kMaxGuidance = 50;  // The engine's kMaxGuidanceScale.
constexpr int kMaxFirstGpu = 63;     // The worker's --first-gpu.

bool NameIsPlain(const std::string& name) {
  return !name.empty() && name.size() <= 64 &&
         name.find_first_not_of(
             "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") ==
             std::string::npos;
}

// [3, 5] -> "3+5": blocks of each stage.
std::string ReadBlocks(MapReader& layout) {
  const std::vector<std::string> counts = layout.Strings("blocks");
  for (const std::string& count : counts) {
    int number = 0;
    if (!absl::SimpleAtoi(count, &number) || number < 1 || number > 1024) {
      layout.Fault("blocks", absl::StrCat("'", count, "' is not a number of blocks, 1 to 1024"));
    }
  }
  return absl::StrJoin(counts, "+");
}

// The worker checks how degrees, ranks and model fit together; here only types and ranges.
std::string ReadLayout(MapReader layout) {
  std::vector<std::string> parts;
  const auto degree = [&](const char* key, int64_t min, int64_t max) {
    const int64_t value = layout.Integer(key, min, min, max);
    if (layout.Has(key)) {
      parts.push_back(absl::StrCat(key, "=", value));
    }
  };
  degree("pipefusion", 1, 64);
  degree("patches", 1, 1024);
  degree("warmup_steps", 0, 1000);
  degree("distrifusion", 1, 64);
  degree("ulysses", 1, 64);
  degree("ring", 1, 64);
  degree("tensor", 1, 64);
  degree("guidance", 1, 2);
  if (const std::string blocks = ReadBlocks(layout); !blocks.empty()) {
    parts.push_back(absl::StrCat("blocks=", blocks));
  }
  for (const char* key : {"shared_text", "cuda_graphs"}) {
    const bool value = layout.Boolean(key, false);
    if (layout.Has(key)) {
      parts.push_back(absl::StrCat(key, "=", value ? 1 : 0));
    }
  }
  layout.Finish();
  return absl::StrJoin(parts, ",");
}

void ReadWorkers(MapReader& reader, GroupConfig& group) {
  group.workers = reader.Strings("workers");
  if (group.workers.size() > kMaxWorkers) {
    reader.Fault("workers", absl::StrCat(group.workers.size(), " addresses, limit ", kMaxWorkers));
  }
  std::set<std::string> taken;
  for (const std::string& worker : group.workers) {
    CheckAddress(reader, "workers", worker);
    if (!taken.insert(worker).second) {
      reader.Fault("workers", absl::StrCat("'", worker, "' is named twice"));
    }
  }
  for (const char* key : {"model", "device", "dtype", "ranks", "first_gpu", "processes", "layout",
                          "threads", "warmup"}) {
    if (!group.local() && reader.Has(key)) {
      reader.Fault(key, "belongs to the worker's own command line when 'workers' is given");
    }
  }
}

void ReadRanks(MapReader& reader, GroupConfig& group) {
  group.ranks = static_cast<int>(reader.Integer("ranks", 1, 1, 64));
  group.first_gpu = static_cast<int>(reader.Integer("first_gpu", 0, 0, kMaxFirstGpu));
  if (reader.Has("first_gpu") && group.device == "cpu") {
    reader.Fault("first_gpu", "has no meaning with 'device: cpu'");
  }
  group.processes = static_cast<int>(reader.Integer("processes", 1, 1, 64));
  if (group.ranks % group.processes != 0) {
    reader.Fault("processes",
                 absl::StrCat(group.processes, " can't share ", group.ranks, " ranks evenly"));
  }
}

GroupConfig ReadGroup(MapReader reader, const std::string& directory) {
  GroupConfig group;
  ReadWorkers(reader, group);
  const std::string model =
      group.local() ? reader.RequiredString("model") : reader.String("model", "");
  if (!model.empty()) {
    group.model = AbsolutePath(model, directory);
    if (group.local() && !std::filesystem::is_directory(group.model)) {
      reader.Fault("model", absl::StrCat("no directory '", group.model, "'"));
    }
  }
  group.model_name =
      group.local()
          ? reader.String("model_name", std::filesystem::path(group.model).filename().string())
          : reader.RequiredString("model_name");
  if (!model.empty() && !NameIsPlain(group.model_name)) {
    reader.Fault("model_name", absl::StrCat("'", group.model_name,
                                            "' is not 1 to 64 of letters, digits, '.', '_', '-'"));
  }
  group.name = reader.String("name", "");
  if (reader.Has("name") && !NameIsPlain(group.name)) {
    reader.Fault("name", absl::StrCat("'", group.name,
                                      "' is not 1 to 64 of letters, digits, '.', '_', '-'"));
  }
  group.device = reader.OneOf("device", "auto", {"auto", "cuda", "cpu"});
  group.dtype = reader.OneOf("dtype", "auto", {"auto", "float32", "bfloat16", "float16", "float8"});
  ReadRanks(reader, group);
  group.threads = static_cast<int>(reader.Integer("threads", 0, 0, 1024));
  group.default_guidance = reader.Number("default_guidance", 0, 1, kMaxGuidance);
  group.provenance_mark = reader.Boolean("provenance_mark", group.provenance_mark);
  group.warmup = ReadWarmUp(reader);
  group.batch_size = ReadBatching(reader, group.members());
  group.layout = ReadLayout(reader.Map("layout"));
  reader.Finish();
  return group;
}

void NameGroups(std::vector<MapReader>& readers, std::vector<GroupConfig>& groups) {
  std::set<std::string> taken;
  for (size_t i = 0; i < groups.size(); ++i) {
    if (!groups[i].name.empty() && !taken.insert(groups[i].name).second) {
      readers[i].Fault("name", absl::StrCat("two groups are called '", groups[i].name, "'"));
    }
  }
  for (GroupConfig& group : groups) {
    for (int i = 1; group.name.empty(); ++i) {
      const std::string name = i == 1 ? group.model_name : absl::StrCat(group.model_name, "-", i);
      if (taken.insert(name).second) {
        group.name = name;
      }
    }
  }
}

Limits ReadLimits(MapReader reader) {
  Limits limits;
  limits.max_pixels = reader.Integer("max_pixels", limits.max_pixels, 256, int64_t{1} << 32);
  limits.max_count = static_cast<int>(reader.Integer("max_count", limits.max_count, 1, 1024));
  limits.max_steps = static_cast<int>(reader.Integer("max_steps", limits.max_steps, 1, 1000));
  limits.max_prompt_bytes =
      static_cast<int>(reader.Integer("max_prompt_bytes", limits.max_prompt_bytes, 1, 1 << 20));
  limits.max_queue = static_cast<int>(reader.Integer("max_queue", limits.max_queue, 1, 100000));
  limits.max_queue_work =
      reader.Duration("max_queue_work", limits.max_queue_work, absl::Seconds(1), 365 * kDay);
  limits.requests_per_second =
      reader.Number("requests_per_second", limits.requests_per_second, 0, 1e6);
  limits.burst = static_cast<int>(reader.Integer("burst", limits.burst, 1, 1000000));
  limits.max_unary_bytes =
      reader.Integer("max_unary_bytes", limits.max_unary_bytes, 1024, int64_t{1} << 30);
  limits.max_message_bytes =
      reader.Integer("max_message_bytes", limits.max_message_bytes, 64 << 10, int64_t{1} << 30);
  limits.result_bytes = reader.Integer("result_bytes", limits.result_bytes, 0, int64_t{1} << 40);
  limits.result_age = reader.Duration("result_age", limits.result_age, absl::ZeroDuration(), kDay);
  limits.max_streams =
      static_cast<int>(reader.Integer("max_streams", limits.max_streams, 1, 1000000));
  limits.max_connection_age =
      reader.Duration("max_connection_age", limits.max_connection_age, absl::Seconds(1), 20 * kDay);
  limits.slow_client_timeout = reader.Duration("slow_client_timeout", limits.slow_client_timeout,
                                               absl::Milliseconds(100), kDay);
  limits.recovery_timeout =
      reader.Duration("recovery_timeout", limits.recovery_timeout, absl::ZeroDuration(), kDay);
  reader.Finish();
  return limits;
}

DrainConfig ReadDrain(MapReader reader) {
  DrainConfig drain;
  drain.timeout = reader.Duration("timeout", drain.timeout, absl::ZeroDuration(), kDay);
  drain.delay = reader.Duration("delay", drain.delay, absl::ZeroDuration(), absl::Hours(1));
  reader.Finish();
  return drain;
}

Supervision ReadSupervision(MapReader reader) {
  Supervision s;
  const absl::Duration least = absl::Milliseconds(10);
  s.heartbeat_interval =
      reader.Duration("heartbeat_interval", s.heartbeat_interval, least, absl::Minutes(1));
  s.heartbeat_timeout =
      reader.Duration("heartbeat_timeout", s.heartbeat_timeout, least, absl::Hours(1));
  s.load_timeout = reader.Duration("load_timeout", s.load_timeout, least, kDay);
  s.first_run_timeout =
      reader.Duration("first_run_timeout", s.first_run_timeout, absl::Seconds(1), kDay);
  s.phase_timeout = reader.Duration("phase_timeout", s.phase_timeout, absl::Seconds(1), kDay);
  s.stall_timeout = reader.Duration("stall_timeout", s.stall_timeout, least, kDay);
  s.back_off = reader.Duration("back_off", s.back_off, absl::Milliseconds(1), absl::Hours(1));
  s.max_failures = static_cast<int>(reader.Integer("max_failures", s.max_failures, 1, 1000));
  if (s.heartbeat_timeout < 2 * s.heartbeat_interval) {
    reader.Fault("heartbeat_timeout", absl::StrCat(absl::FormatDuration(s.heartbeat_timeout),
                                                   " is less than two heartbeat intervals of ",
                                                   absl::FormatDuration(s.heartbeat_interval)));
  }
  reader.Finish();
  return s;
}

WorkerLinks ReadWorkerLinks(MapReader reader, const std::string& directory) {
  WorkerLinks links;
  links.tls.certificate = ReadPath(reader, "certificate", directory);
  links.tls.key = ReadPath(reader, "key", directory);
  links.tls.client_ca = ReadPath(reader, "ca", directory);
  links.tls.refresh = reader.Duration("refresh", links.tls.refresh, absl::Seconds(1), kDay);
  links.plaintext = reader.Boolean("plaintext", false);
  if (links.tls.on() != !links.tls.key.empty() || links.tls.on() != !links.tls.client_ca.empty()) {
    reader.Fault("certificate", "'certificate', 'key' and 'ca' go together");
  }
  if (links.plaintext && links.tls.on()) {
    reader.Fault("plaintext", "has no meaning with 'certificate'");
  }
  reader.Finish();
  return links;
}

SecurityConfig ReadSecurity(MapReader reader, const std::string& directory,
                            const std::string& listen) {
  SecurityConfig security;
  MapReader tls = reader.Map("tls");
  security.tls.certificate = ReadPath(tls, "certificate", directory);
  security.tls.key = ReadPath(tls, "key", directory);
  security.tls.client_ca = ReadPath(tls, "client_ca", directory);
  security.tls.refresh =
      tls.Duration("refresh", security.tls.refresh, absl::Milliseconds(100), kDay);
  if (security.tls.certificate.empty() != security.tls.key.empty()) {
    reader.Fault("tls", "'certificate' and 'key' go together");
  }
  if (!security.tls.client_ca.empty() && !security.tls.on()) {
    tls.Fault("client_ca", "has no meaning without 'certificate' and 'key'");
  }
  tls.Finish();
  security.workers = ReadWorkerLinks(reader.Map("workers"), directory);
  security.tokens = ReadPath(reader, "tokens", directory);
  if (!security.tokens.empty() && !security.tls.on() && !IsThisHost(listen)) {
    reader.Fault("tokens", absl::StrCat("would travel unencrypted to server.listen ", listen,
                                        ": add security.tls, or listen on this host"));
  }
  reader.Finish();
  return security;
}

void ReadListeners(MapReader server, ServerConfig& config) {
  config.listen = server.String("listen", config.listen);
  config.metrics = server.String("metrics", "");
  config.health = server.String("health", "");
  config.admin = server.String("admin", "");
  CheckAddress(server, "listen", config.listen);
  CheckAddress(server, "metrics", config.metrics);
  CheckAddress(server, "health", config.health);
  CheckAddress(server, "admin", config.admin);
  if (!config.admin.empty() && !IsThisHost(config.admin)) {
    server.Fault("admin", absl::StrCat("'", config.admin,
                                       "' is open to other hosts and asks for no token: take "
                                       "127.0.0.1:PORT or unix:PATH"));
  }
  server.Finish();
}

// What goes to a worker of another host, prompts and images, must not be read on the way.
void CheckWorkerLinks(std::vector<MapReader>& readers, const ServerConfig& config) {
  const WorkerLinks& links = config.security.workers;
  for (size_t i = 0; i < readers.size(); ++i) {
    for (const std::string& worker : config.groups[i].workers) {
      if (!links.tls.on() && !links.plaintext && !IsThisHost(worker)) {
        readers[i].Fault("workers",
                         absl::StrCat("'", worker,
                                      "' would be reached unencrypted: add security.workers with "
                                      "certificate, key and ca, or say security.workers.plaintext: "
                                      "true"));
        break;
      }
    }
  }
}

ServerConfig ReadServer(MapReader top, const std::string& directory) {
  ServerConfig config;
  ReadListeners(top.Map("server"), config);
  if (!top.Has("groups")) {
    top.Fault("groups", "is required: at least one group");
  }
  std::vector<MapReader> readers = top.Maps("groups");
  if (top.Has("groups") && readers.empty()) {
    top.Fault("groups", "at least one group is needed");
  }
  for (const MapReader& reader : readers) {
    config.groups.push_back(ReadGroup(reader, directory));
  }
  NameGroups(readers, config.groups);
  config.limits = ReadLimits(top.Map("limits"));
  for (size_t i = 0; i < readers.size(); ++i) {
    CheckWarmUp(readers[i], config.groups[i].warmup, config.limits.max_pixels);
  }
  config.drain = ReadDrain(top.Map("drain"));
  config.supervision = ReadSupervision(top.Map("supervision"));
  MapReader log = top.Map("log");
  config.log.level = log.OneOf("level", "info", {"debug", "info", "warning", "error"});
  config.log.prompts = log.Boolean("prompts", false);
  log.Finish();
  config.security = ReadSecurity(top.Map("security"), directory, config.listen);
  CheckWorkerLinks(readers, config);
  config.audit = ReadAudit(top.Map("audit"), directory);
  config.store = ReadStore(top.Map("store"), directory);
  config.tracing = ReadTracing(top.Map("tracing"), directory);
  config.black_box = ReadBlackBox(top.Map("black_box"), directory);
  config.chaos = top.Boolean("chaos", false);
  config.worker_binary = top.String("worker_binary", "");
  if (!config.worker_binary.empty()) {
    config.worker_binary = AbsolutePath(config.worker_binary, directory);
  }
  top.Finish();
  return config;
}

}  // namespace

absl::StatusOr<ServerConfig> ParseConfig(const std::string& text, const std::string& file,
                                         const std::string& directory) {
  ConfigErrors errors(file);
  ServerConfig config;
  try {
    config = ReadServer(MapReader(YAML::Load(text), "", errors), directory);
  } catch (const YAML::Exception& e) {
    errors.Add(e.mark, "", e.msg);
  }
  if (!errors.empty()) {
    return absl::InvalidArgumentError(errors.Text());
  }
  return config;
}

absl::StatusOr<ServerConfig> LoadConfig(const std::string& file) {
  std::error_code error;
  const auto size = std::filesystem::file_size(file, error);
  std::ifstream in(file, std::ios::binary);
  if (error || !in) {
    return absl::NotFoundError(absl::StrCat("no configuration file '", file, "'"));
  }
  if (size > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": ", size, " bytes; at most ", kMaxFileBytes, " are read"));
  }
  std::ostringstream text;
  text << in.rdbuf();
  return ParseConfig(text.str(), file,
                     std::filesystem::absolute(file, error).parent_path().string());
}

}  // namespace patchflow
