// patchflow-server: the front end.

#include <grpc/support/log.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <ctime>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "server/build_info.h"
#include "server/check.h"
#include "server/config.h"
#include "server/git_sha.h"
#include "server/log.h"
#include "server/server.h"
#include "server/version.h"

namespace {

constexpr int kExitFailed = 1;
constexpr int kExitBadConfig = 2;

// gRPC's own complaints, as lines of our log.
void LogForGrpc(gpr_log_func_args* args) {
  if (args->severity == GPR_LOG_SEVERITY_ERROR) {
    patchflow::LogWarning("grpc", {{"text", args->message}});
  }
}

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

// Takes the signals from the beginning, also while the server starts, which may wait for a disk.
class SignalDesk {
 public:
  SignalDesk() { std::thread(&SignalDesk::Handle, this).detach(); }

  // The server has started, or (null) is about to go.
  void SetServer(patchflow::Server* server) {
    const std::lock_guard<std::mutex> lock(mutex_);
    server_ = server;
    started_ = true;
    if (stopped_ && server != nullptr) {
      server->Stop();
    }
  }

 private:
  // The first signal begins the drain; before there is a server nothing was accepted, so that the
  // process ends if the server does not come soon. The second ends the process at once; the kernel
  // then ends the workers.
  void Handle() {
    const sigset_t signals = StopSignals();
    int number = 0;
    sigwait(&signals, &number);
    if (!Stop()) {
      const timespec soon{kSecondsToStart, 0};
      number = sigtimedwait(&signals, nullptr, &soon);
      if (number > 0 || !Started()) {
        _exit(number > 0 ? 128 + number : 0);
      }
    }
    sigwait(&signals, &number);
    _exit(128 + number);
  }

  // Whether the server has started; it stops now, or as soon as it has.
  bool Stop() {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
    if (server_ != nullptr) {
      server_->Stop();
    }
    return started_;
  }
  bool Started() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return started_;
  }

  static constexpr time_t kSecondsToStart = 5;

  std::mutex mutex_;
  patchflow::Server* server_ = nullptr;
  bool started_ = false;
  bool stopped_ = false;
};

int Check(const std::string& config_file) {
  auto config = patchflow::LoadConfig(config_file);
  if (!config.ok()) {
    std::printf("BAD   configuration\n%s\n", std::string(config.status().message()).c_str());
    return kExitFailed;
  }
  std::vector<patchflow::CheckRow> rows = patchflow::CheckConfig(*config);
  rows.insert(rows.begin(), {"configuration", patchflow::CheckRow::kGood, config_file});
  std::fputs(patchflow::CheckTable(rows).c_str(), stdout);
  return patchflow::CheckPassed(rows) ? 0 : kExitFailed;
}

int Run(const std::string& config_file, SignalDesk& signals) {
  auto config = patchflow::LoadConfig(config_file);
  if (!config.ok()) {
    std::fprintf(stderr, "patchflow-server: the configuration cannot be used:\n%s\n",
                 std::string(config.status().message()).c_str());
    return kExitBadConfig;
  }
  patchflow::StartLog(config->log);
  auto server = patchflow::Server::Start(*config);
  if (!server.ok()) {
    patchflow::LogError("cannot start", {{"why", std::string(server.status().message())}});
    return kExitFailed;
  }
  signals.SetServer(server->get());
  const bool given_up = (*server)->WaitUntilDone();
  (*server)->Drain();
  signals.SetServer(nullptr);
  server->reset();
  return given_up ? kExitFailed : 0;
}

}  // namespace

int main(int argc, char** argv) {
  // Debian's abseil looks for deadlocks at every lock of gRPC, behind one global lock.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  patchflow::SetGitSha(patchflow::kGitSha);
  CLI::App app{"Serves text-to-image models over gRPC."};
  std::string config_file;
  app.add_option("--config", config_file, "YAML file")->required();
  bool check = false;
  app.add_flag(
      "--check", check,
      "Look at everything that the configuration names, print a table, start nothing; exit "
      "status 0 or 1");
  app.set_version_flag("--version", patchflow::kVersion);
  CLI11_PARSE(app, argc, argv);
  if (check) {
    return Check(config_file);
  }
  const sigset_t signals = StopSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // A file at its limit is an error of the write.
  gpr_set_log_function(LogForGrpc);
  SignalDesk desk;  // Until the process ends.
  const int status = Run(config_file, desk);
  patchflow::StopLog();
  _exit(status);
}
