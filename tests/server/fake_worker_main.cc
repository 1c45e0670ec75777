// patchflow-fake-worker: takes patchflow-worker's command line, makes no images. See fake_worker.h
// for its faults.

#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "tests/server/fake_worker.h"

int main(int argc, char** argv) {
  // Debian's abseil looks for deadlocks at every lock of gRPC, behind one global lock.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  CLI::App app{"A worker that only takes time."};
  patchflow::FakeWorkerOptions options;
  options.own_process = true;
  std::string socket;
  std::string listen;
  std::string ignored;
  int threads = 0;
  double step_ms = 1;
  double load_ms = 0;
  double encode_ms = 0;
  app.add_option("--socket", socket);
  app.add_option("--listen", listen);
  app.add_option("--model", ignored);
  app.add_option("--device", ignored);
  app.add_option("--dtype", options.dtype);
  app.add_option("--ranks", options.ranks);
  app.add_option("--layout", options.layout);
  app.add_option("--batch-size", options.batch_size);
  app.add_option("--threads", threads);
  for (const char* flag : {"--load-timeout", "--first-run-timeout", "--phase-timeout",
                           "--black-box", "--fault-orders", "--log-level"}) {
    app.add_option(flag, ignored);
  }
  app.add_option("--default-guidance", options.default_guidance);
  app.add_option("--plan", options.plan_digest);
  app.add_option("--step-ms", step_ms)->envname("PATCHFLOW_FAKE_STEP_MS");
  app.add_option("--load-ms", load_ms)->envname("PATCHFLOW_FAKE_LOAD_MS");
  app.add_option("--encode-ms", encode_ms)->envname("PATCHFLOW_FAKE_ENCODE_MS");
  app.add_option("--image-bytes", options.image_bytes);
  bool check = false;
  app.add_flag("--check", check);
  CLI11_PARSE(app, argc, argv);
  if (check) {
    return 0;
  }
  options.address = socket.empty() ? listen : "unix:" + socket;
  options.step_time = absl::Microseconds(1000 * step_ms);
  options.encode_time = absl::Microseconds(1000 * encode_ms);
  options.load_time = absl::Microseconds(1000 * load_ms);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  auto worker = patchflow::FakeWorker::Start(options);
  if (worker == nullptr) {
    std::fprintf(stderr, "patchflow-fake-worker: cannot listen on %s\n", options.address.c_str());
    return 1;
  }
  int number = 0;
  sigwait(&signals, &number);
  _exit(0);
}
