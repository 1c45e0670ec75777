#include "worker/flags.h"

#include <CLI/CLI.hpp>

#include "engine/engine.h"
#include "worker/digest.h"
#include "worker/exit_codes.h"

namespace patchflow {

ParsedFlags ParseFlags(int argc, const char* const* argv) {
  ParsedFlags parsed;
  WorkerFlags& flags = parsed.flags;
  double load_seconds = absl::ToDoubleSeconds(flags.load_timeout);
  double first_run_seconds = absl::ToDoubleSeconds(flags.first_run_timeout);
  double phase_seconds = absl::ToDoubleSeconds(flags.phase_timeout);

  CLI::App app("Hosts the ranks of one group and serves patchflow.worker.v1 to the front end.",
               "patchflow-worker");
  app.set_version_flag("--version", BuildId());
  auto* addresses = app.add_option_group("addresses", "at least one");
  addresses->add_option("--socket", flags.socket, "Path of a unix socket to serve on");
  addresses->add_option("--listen", flags.listen,
                        "host:port to serve on; needs --tls-cert, --tls-key and --tls-ca, or "
                        "--plaintext");
  addresses->require_option(1, 2);
  app.add_option("--tls-cert", flags.tls_cert,
                 "PEM file: what --listen shows the front end; read again when it changes");
  app.add_option("--tls-key", flags.tls_key, "PEM file: its private key");
  app.add_option("--tls-ca", flags.tls_ca,
                 "PEM file: by whom the certificate of the front end must be signed");
  app.add_flag("--plaintext", flags.plaintext,
               "Let --listen be open to whoever reaches it, without encryption or authentication");
  app.add_option("--health", flags.health,
                 "host:port that answers grpc.health.v1 alone, without TLS, for probes");
  app.add_option("--model", flags.model, "Diffusers directory of the model")->required();
  app.add_option("--device", flags.device, "auto, cpu or cuda")->capture_default_str();
  app.add_option("--dtype", flags.dtype,
                 "auto, float32, bfloat16, float16; float8 on Hopper: bfloat16 with the products "
                 "of the transformer's blocks in 8 bits")
      ->capture_default_str();
  app.add_option("--ranks", flags.ranks, "Devices of this worker that make each image together")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--group-ranks", flags.group_ranks,
                 "Devices of all workers of the group, which the front end joins; 0: --ranks")
      ->check(CLI::Range(0, 256))
      ->capture_default_str();
  app.add_option("--first-gpu", flags.first_gpu, "Number of the first GPU to use")
      ->check(CLI::Range(0, 63))
      ->capture_default_str();
  app.add_option("--layout", flags.layout,
                 "How they divide it, such as pipefusion=2,patches=4; empty: one rank");
  app.add_option(
         "--batch-size", flags.batch_size,
         "Images of calls that come together made in one pass; images of another batch size "
         "have other bytes")
      ->check(CLI::Range(1, kMaxBatchSize))
      ->capture_default_str();
  app.add_option("--threads", flags.threads,
                 "CPU threads of an operation, each rank; 0: cores / ranks")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--default-guidance", flags.default_guidance,
                 "Guidance scale of requests that name none; 0: the model's own")
      ->check(CLI::Range(0.0, kMaxGuidanceScale))
      ->capture_default_str();
  app.add_option("--warm-up", flags.warm_up,
                 "Sizes to make an image of before it is ready, such as 1024x1024,1024x512; empty: "
                 "one of the model's own size");
  app.add_option("--load-timeout", load_seconds, "Seconds to load the model")
      ->check(CLI::Range(1.0, 86400.0))
      ->capture_default_str();
  app.add_option("--first-run-timeout", first_run_seconds,
                 "Seconds without progress until a rank counts as hung, before there is a measure")
      ->check(CLI::Range(1.0, 86400.0))
      ->capture_default_str();
  app.add_option("--phase-timeout", phase_seconds,
                 "Least seconds without progress until a rank counts as hung; 10 times its median "
                 "if that is longer")
      ->check(CLI::Range(1.0, 86400.0))
      ->capture_default_str();
  app.add_option("--black-box", flags.black_box,
                 "File to record in what happens, for `patchflow diagnose` after a fault");
  app.add_option("--log-level", flags.log_level,
                 "debug, info, warning or error, until a front end says otherwise")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  app.add_option("--fault-orders", flags.fault_orders,
                 "For `patchflow chaos`: file whose orders to fail this worker obeys");
  app.add_flag("--die-with-parent", flags.die_with_parent,
               "End at once when the process that started this one ends");
  app.add_flag("--check", flags.check,
               "Look whether the model and the devices allow the other options, say so and end, "
               "with exit status 0 or 2; load no weights, serve nothing");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    parsed.exit_code = app.exit(error) == 0 ? kExitOk : kExitRefused;
  }
  flags.load_timeout = absl::Seconds(load_seconds);
  flags.first_run_timeout = absl::Seconds(first_run_seconds);
  flags.phase_timeout = absl::Seconds(phase_seconds);
  return parsed;
}

}  // namespace patchflow
