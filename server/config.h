// The configuration of patchflow-server: a YAML file, read and checked as a whole before anything
// starts.
//
//   server:
//     listen: 127.0.0.1:50051      # gRPC; port 0 takes a free one; "unix:PATH" is possible
//     metrics: 127.0.0.1:9090      # HTTP: /metrics, /healthz, /readyz; left out: none
//     health: 0.0.0.0:50052        # gRPC health without TLS and tokens, for probes; left out: none
//     admin: 127.0.0.1:50053       # gRPC patchflow.admin.v1; this host or "unix:PATH" only; left
//                                  # out: none
//   groups:                        # each is a fixed set of ranks that makes one image at a time,
//                                  # or one batch
//     - name: main                 # default: the model's name, with "-2", "-3", ... if taken
//       model: models/shapes-256   # a diffusers directory; relative to this file
//       model_name: shapes-256     # default: the folder's name
//       device: auto               # auto, cuda, cpu
//       dtype: auto                # auto, float32, bfloat16, float16; float8 on Hopper: bfloat16
//                                  # with the products of the transformer's blocks in 8 bits
//       ranks: 1
//       first_gpu: 0               # rank r runs on GPU first_gpu + r of this host
//       processes: 1               # that share them, each with ranks / processes; 1 is fastest
//       layout: {}                 # pipefusion, patches, warmup_steps, distrifusion, ulysses,
//       ring, tensor, guidance,
//                                  # blocks, shared_text, cuda_graphs
//       threads: 0                 # CPU threads of the worker; 0: as it thinks best
//       default_guidance: 4.5      # default: the worker's
//       warmup: [1024x1024, 1024x512]  # WIDTHxHEIGHT, 16 at most: images made before it is ready,
//                                  # so that their CUDA graphs are there; [] or left out: one of
//                                  # the model's own size
//       batching: false            # true: images of one shape, of several requests too, are made
//                                  # in one pass over the network; not with several processes
//       batch_size: 4              # images of a pass, 2 to 16. The pass takes as long with fewer
//       provenance_mark: true      # images say, in XMP, that a model made them (IPTC's Digital
//                                  # Source Type: trainedAlgorithmicMedia), if any group's shall
//       workers: []                # address of a worker that is already running; it is then not
//       started here. Several, of different hosts: each with a share of the ranks, started with
//       --group-ranks; rank 0 is on the first
//   limits: {}                     # see Limits
//   drain: {timeout: 60s, delay: 0s}
//   supervision: {}                # see Supervision
//   log: {level: info, prompts: false}
//   security:                      # tokens need TLS unless server.listen is this host
//     tls: {certificate: tls.crt, key: tls.key, client_ca: ca.crt, refresh: 10s}
//     tokens: tokens.yaml          # see tokens.h
//     workers:                     # mTLS to `workers` over TCP, needed unless they are on this
//     host
//       {certificate: w.crt, key: w.key, ca: ca.crt, refresh: 10s}
//                                  # or {plaintext: true}: on a network that nobody else is on
//   audit: {file: audit.jsonl, max_bytes: 67108864, max_files: 8, max_delay: 2s, sync: false}
//   store: {directory: store, max_bytes: 268435456, max_age: 5m, max_wait: 1s}  # of detached
//                                # generations
//   black_box: {directory: black-boxes, max_files: 64, max_bytes: 67108864}  # of workers that died
//   chaos: false                   # true: `patchflow chaos` may order faults of the workers
//   tracing:                       # spans; `patchflow trace` shows them without a collector too
//     otlp: 127.0.0.1:4317         # gRPC, of an OpenTelemetry collector; left out: none
//     ca: ca.crt                   # TLS to it; left out: none
//     service_name: patchflow
//     sample_ratio: 1.0            # of requests whose traceparent does not decide
//     queue: 2048                  # traces that may wait for the collector
//     recent: 1000                 # traces kept for GetGenerationTrace
//   worker_binary: patchflow-worker   # default: beside patchflow-server
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace patchflow {

struct GroupConfig {
  std::string name;
  std::string model;  // Absolute.
  std::string model_name;
  std::string device = "auto";
  std::string dtype = "auto";
  int ranks = 1;
  int first_gpu = 0;
  int processes = 1;  // Of a group that is started here; `ranks` is a multiple.
  std::string
      layout;  // As patchflow-worker takes it: "pipefusion=2,patches=4"; empty for the defaults.
  // Sizes as "1024x512"; empty: as the worker thinks best.
  std::vector<std::string> warmup = {};
  int batch_size = 1;  // Images that share a pass over the network; 1: each has its own.
  int threads = 0;
  double default_guidance = 0;       // 0: the worker's.
  bool provenance_mark = true;       // Images say that a model made them.
  std::vector<std::string> workers;  // Addresses of remote workers; empty: started here.

  bool local() const { return workers.empty(); }
  // Worker processes that make one image together.
  int members() const { return local() ? processes : static_cast<int>(workers.size()); }
};

// What one request may ask for, besides what the model allows, and what the server holds.
struct Limits {
  int64_t max_pixels = 0;  // Width times height; 0: the model's limit.
  int max_count = 8;
  int max_steps = 200;
  int max_prompt_bytes = 8192;
  int max_queue = 256;                             // Requests that wait for a group, per model.
  absl::Duration max_queue_work = absl::Hours(1);  // Their estimated runs, per model.
  double requests_per_second = 0;                  // Of one client; 0: any number.
  int burst = 20;                                  // Of one client at once.
  int64_t max_unary_bytes = (4 << 20) - (64 << 10);
  int64_t max_message_bytes = 4 << 20;
  int64_t result_bytes = 256 << 20;  // Finished generations kept for replay and FetchGeneration.
  absl::Duration result_age = absl::Seconds(300);
  int max_streams = 2048;                                 // Of one connection: see listener.h.
  absl::Duration max_connection_age = absl::Minutes(30);  // Then clients connect anew.
  absl::Duration slow_client_timeout = absl::Seconds(30);
  absl::Duration recovery_timeout =
      absl::Seconds(120);  // Accepted requests wait so long for a group that does not load.
};

struct DrainConfig {
  absl::Duration timeout = absl::Seconds(60);
  absl::Duration delay;  // Between readiness off and the first refusal.
};

struct Supervision {
  absl::Duration heartbeat_interval = absl::Milliseconds(500);
  absl::Duration heartbeat_timeout = absl::Seconds(2);
  absl::Duration load_timeout = absl::Seconds(1200);  // From a worker's start until it is ready.
  absl::Duration first_run_timeout =
      absl::Seconds(120);  // A rank without progress, in a phase of a shape that is new to it,
  absl::Duration phase_timeout = absl::Seconds(10);   // or known: or 10 medians if that is longer.
  absl::Duration stall_timeout = absl::Seconds(600);  // A running job that says nothing.
  absl::Duration back_off = absl::Seconds(1);         // Before the second restart; doubles.
  int max_failures = 5;                               // In a row, no job completed in between.
};

struct LogConfig {
  std::string level = "info";
  bool prompts = false;
};

// Files are absolute; empty is none.
struct TlsConfig {
  std::string certificate;  // PEM; empty: no TLS.
  std::string key;
  std::string client_ca;  // Clients must show a certificate of these authorities.
  absl::Duration refresh = absl::Seconds(10);  // The files are read again so often.
  std::string name = "security.tls";           // Of the configuration, for faults.
  std::string ca_name = "client_ca";

  bool on() const { return !certificate.empty(); }
};

// Of the front end with workers that it reaches over TCP.
struct WorkerLinks {
  // What the front end shows them, and by whom theirs must be signed (client_ca).
  TlsConfig tls = {
      .certificate = "", .key = "", .client_ca = "", .name = "security.workers", .ca_name = "ca"};
  bool plaintext = false;  // Those of other hosts may be reached without TLS.
};

struct SecurityConfig {
  TlsConfig tls;
  WorkerLinks workers;
  std::string tokens;  // See tokens.h; read again with the TLS files. Empty: no token is asked for.
};

struct AuditConfig {
  std::string file;              // Empty: no audit log.
  int64_t max_bytes = 64 << 20;  // A file that is larger is set aside as FILE.1 ...
  int max_files = 8;             // ... and so many of those are kept.
  // Nothing new is taken while a line waits for the disk for longer than this.
  absl::Duration max_delay = absl::Seconds(2);
  // A line counts as written once the disk has it, not the system: a power failure loses none
  // that does. Costs a sync for all lines that came during the one before.
  bool sync = false;
};

struct StoreConfig {
  std::string directory;  // Empty: generations do not outlive the process.
  int64_t max_bytes = 256 << 20;
  absl::Duration max_age = absl::Seconds(300);
  // A request waits so long for the disk, and is refused then.
  absl::Duration max_wait = absl::Seconds(1);
};

struct BlackBoxConfig {
  std::string directory;         // Empty: see DefaultBlackBoxDirectory().
  int max_files = 64;            // The oldest are removed.
  int64_t max_bytes = 64 << 20;  // Of all together.
};

struct TracingConfig {
  std::string otlp;  // Address of a collector; empty: nothing is exported.
  std::string ca;    // PEM; empty: no TLS to the collector.
  std::string service_name = "patchflow";
  double sample_ratio = 1;
  int queue = 2048;
  int recent = 1000;
};

struct ServerConfig {
  std::string listen = "127.0.0.1:50051";
  std::string metrics;  // Empty: no metrics listener.
  std::string health;   // Empty: no health listener of its own.
  std::string admin;    // Empty: no admin listener.
  std::vector<GroupConfig> groups;
  Limits limits;
  DrainConfig drain;
  Supervision supervision;
  LogConfig log;
  SecurityConfig security;
  AuditConfig audit;
  StoreConfig store;
  TracingConfig tracing;
  BlackBoxConfig black_box;
  bool chaos = false;         // Workers obey orders to fail: see worker/fault_injection.h.
  std::string worker_binary;  // Empty: beside the server's own.
};

// NOT_FOUND if there is no such file; INVALID_ARGUMENT listing every fault, one a line, as
// "FILE:LINE: KEY: TEXT".
absl::StatusOr<ServerConfig> LoadConfig(const std::string& file);

// The same for a text; `file` names it in faults, and relative paths start at `directory`.
absl::StatusOr<ServerConfig> ParseConfig(const std::string& text, const std::string& file,
                                         const std::string& directory);

}  // namespace patchflow
