// patchflow-worker: hosts the ranks of one group and serves patchflow.worker.v1. Serves at once,
// loads meanwhile. SIGTERM and SIGINT stop the running job at a step and end the process; a second
// one ends it at once. See exit_codes.h.
#include <grpc/support/log.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "worker/device_watch.h"
#include "worker/exit_codes.h"
#include "worker/flags.h"
#include "worker/health.h"
#include "worker/listen_tls.h"
#include "worker/load.h"
#include "worker/log.h"
#include "worker/warm_up.h"
#include "worker/watched_engine.h"
#include "worker/worker.h"
#include "worker/worker_service.h"

namespace patchflow {
namespace {

constexpr absl::Duration kStopJob = absl::Seconds(10);  // Loading is not waited for.
// A failed worker answers until all who watch it have been written why, and a little longer, so
// that it also reaches them.
constexpr absl::Duration kTellFailure = absl::Seconds(2);
constexpr absl::Duration kReach = absl::Milliseconds(250);
constexpr absl::Duration kAskDriver = absl::Milliseconds(500);
constexpr absl::Duration kEndCalls = absl::Milliseconds(250);
constexpr size_t kMaxSocketPathBytes = 107;

// What the process ends for: the first reason counts.
class Ending {
 public:
  struct Reason {
    int exit_code = kExitOk;
    std::string text;
  };
  void Set(Reason reason) {
    const std::lock_guard lock(mutex_);
    if (!reason_.has_value()) reason_ = std::move(reason);
    set_.notify_all();
  }
  Reason Wait() {
    std::unique_lock lock(mutex_);
    set_.wait(lock, [this] { return reason_.has_value(); });
    return *reason_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable set_;
  std::optional<Reason> reason_;
};

[[noreturn]] void EndNow(int exit_code) {
  FlushLog();
  _exit(exit_code);
}

// From /proc, so that the time that the dynamic linker took counts.
absl::Time ProcessStart() {
  std::ifstream file("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::istringstream fields(text.substr(text.rfind(')') + 1));  // From field 3 on.
  std::string field;
  for (int number = 3; number <= 22; ++number) fields >> field;
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  const absl::Duration start =
      absl::Seconds(1) * std::strtoll(field.c_str(), nullptr, 10) / sysconf(_SC_CLK_TCK);
  return absl::Now() - (absl::DurationFromTimespec(now) - start);
}

// The OpenMP runtime reads how threads wait when it is loaded, before main. Its default, to spin,
// takes the CPUs away from other ranks and programs that have work: on 2 cores beside a busy
// compiler an image took 9 times as long. Returns if the variable is set (as patchflow-server does,
// which spares loading the program twice), or if the program can't be started again.
void WaitWithoutSpinning(char** argv) {
  constexpr char kPolicy[] = "OMP_WAIT_POLICY";
  if (std::getenv(kPolicy) != nullptr) return;
  setenv(kPolicy, "passive", 1);
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) execv(program.c_str(), argv);
}

// Signals are taken by one thread of their own; every thread that is made later blocks them too.
sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT}) sigaddset(&signals, number);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

void TakeSignals(const sigset_t& signals, Ending& ending) {
  std::thread([signals, &ending] {
    int number = 0;
    sigwait(&signals, &number);
    ending.Set({kExitOk, absl::StrCat("signal ", number)});
    sigwait(&signals, &number);
    EndNow(kExitFailed);
  }).detach();
}

// gRPC writes its own lines to stderr otherwise.
void TakeGrpcLog() {
  gpr_set_log_function([](gpr_log_func_args* line) {
    Log(line->severity == GPR_LOG_SEVERITY_ERROR ? LogLevel::kWarning : LogLevel::kInfo, "grpc",
        {{"text", line->message}});
  });
}

absl::StatusOr<std::unique_ptr<ListenTls>> CheckAddresses(const WorkerFlags& flags) {
  if (flags.socket.size() > kMaxSocketPathBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("--socket: ", flags.socket.size(), " bytes, limit ", kMaxSocketPathBytes));
  }
  return ListenTls::Open(flags, absl::Now());
}

// For probes that have no certificate. `nothing`: a server needs a service besides health.
std::unique_ptr<grpc::Server> ServeHealth(const std::string& address,
                                          grpc::CallbackGenericService& nothing) {
  grpc::ServerBuilder builder;
  builder.RegisterCallbackGenericService(&nothing);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  int port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  return port == 0 ? nullptr : std::move(server);
}

std::unique_ptr<grpc::Server> Serve(const WorkerFlags& flags, const ListenTls& tls,
                                    WorkerService& service) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  int socket_bound = 1;
  int port = 1;
  if (!flags.socket.empty()) {
    builder.AddListeningPort("unix:" + flags.socket, grpc::InsecureServerCredentials(),
                             &socket_bound);
  }
  if (!flags.listen.empty()) {
    builder.AddListeningPort(flags.listen, tls.credentials(), &port);
  }
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || socket_bound == 0 || port == 0) return nullptr;
  Log(LogLevel::kInfo, "listening",
      {{"socket", flags.socket},
       {"listen", flags.listen},
       {"port", flags.listen.empty() ? 0 : port},
       {"tls", !flags.tls_cert.empty()},
       {"health", flags.health}});
  return server;
}

int Refuse(const std::string& why) {
  Log(LogLevel::kError, "refused", {{"why", why}});
  FlushLog();
  return kExitRefused;
}

int ExitCodeOf(const absl::Status& failure) {
  return absl::IsInvalidArgument(failure) || absl::IsNotFound(failure) ||
                 absl::IsFailedPrecondition(failure)
             ? kExitRefused
             : kExitFailed;
}

// Of GPUs that are not here, so that the rest can be looked at: nothing asks them.
Devices AbsentGpus(int ranks) {
  Devices devices;
  devices.of_rank.assign(static_cast<size_t>(ranks), at::Device(at::kCUDA, 0));
  return devices;
}

// --check: says what the worker would end for before it reads weights.
int Check(const absl::Status& devices, const LoadOptions& load) {
  const absl::Status fits = CheckLoad(load);
  for (const auto& [what, status] : {std::pair{"devices", devices}, {"model", fits}}) {
    if (status.ok()) continue;
    Log(LogLevel::kError, "refused", {{"what", what}, {"why", std::string(status.message())}});
  }
  const bool ok = devices.ok() && fits.ok();
  if (ok) {
    Log(LogLevel::kInfo, "checked",
        {{"device", load.devices.name},
         {"dtype", load.devices.dtype_name},
         {"layout", ToString(load.layout)}});
  }
  FlushLog();
  return ok ? kExitOk : kExitRefused;
}

WorkerOptions OptionsOf(const WorkerFlags& flags, LoadOptions load, absl::Time process_start,
                        const std::shared_ptr<DeviceWatch>& devices, Ending& ending) {
  WorkerOptions options;
  const auto warms_up = std::make_shared<std::function<void()>>();
  options.before_load = [warms_up](std::function<void()> hook) { *warms_up = std::move(hook); };
  load.on_warm_up = [warms_up] { (*warms_up)(); };
  options.layout = ToString(load.layout);
  options.ranks = flags.ranks;
  options.batch_size = flags.batch_size;
  options.process_start = process_start;
  const auto tell = [load](absl::StatusOr<LoadedGroup> loaded) {
    if (loaded.ok()) {
      Log(LogLevel::kInfo, "loaded",
          {{"device", loaded->offer.device},
           {"dtype", loaded->offer.dtype},
           {"layout", ToString(load.layout)},
           {"batch_size", load.batch_size},
           {"model_digest", loaded->offer.model_digest},
           {"plan_digest", loaded->offer.plan_digest},
           {"warmup_seconds", absl::ToDoubleSeconds(loaded->offer.warmup_time)}});
    }
    return loaded;
  };
  if (load.group_ranks > flags.ranks) {
    options.share = LoadShare(load);
    options.share->load = [tell, share = options.share->load](const Place& place) {
      Log(LogLevel::kInfo, "joins its group", {{"first_rank", place.first_rank}});
      return tell(share(place));
    };
  }
  options.load = [tell, load] { return tell(LoadGroup(load)); };
  options.find_device_fault = [devices] { return devices->Find(); };
  options.nccl_errors = [errors = load.watch.nccl_errors] { return errors->load(); };
  options.on_failed = [&ending, load, devices](const absl::Status& failure) {
    load.watch.OnFault(absl::StrCat(absl::StatusCodeToString(failure.code()), " ",
                                    EngineReasonOf(failure), ": ", failure.message()));
    const std::optional<DeviceFault> device = devices->Find();
    if (device.has_value()) {
      Log(LogLevel::kError, "device fault", {{"text", device->text}});
      return ending.Set(
          {device->exit_code(), absl::StrCat(device->text, "; ", failure.ToString())});
    }
    ending.Set({ExitCodeOf(failure), failure.ToString()});
  };
  return options;
}

int Main(int argc, char** argv) {
  const absl::Time process_start = ProcessStart();
  const ParsedFlags parsed = ParseFlags(argc, argv);
  if (parsed.exit_code.has_value()) return *parsed.exit_code;
  const WorkerFlags& flags = parsed.flags;
  SetLogLevel(flags.log_level);
  if (flags.die_with_parent) {
    const pid_t parent = getppid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || parent == 1) return kExitFailed;
  }
  const sigset_t signals = BlockSignals();
  umask(0077);  // The socket is for this user alone.
  TakeGrpcLog();

  absl::StatusOr<Layout> layout = ParseLayout(flags.layout);
  if (!layout.ok()) return Refuse(absl::StrCat("--layout: ", layout.status().message()));
  absl::StatusOr<std::vector<ImageSize>> warm_up = ParseWarmUp(flags.warm_up);
  if (!warm_up.ok()) return Refuse(absl::StrCat("--warm-up: ", warm_up.status().message()));
  const absl::StatusOr<Devices> devices =
      ChooseDevices(flags.device, flags.dtype, flags.ranks, flags.first_gpu);
  if (!devices.ok() && !flags.check) return Refuse(std::string(devices.status().message()));
  if (flags.group_ranks > 0 && flags.group_ranks < flags.ranks) {
    return Refuse(absl::StrCat("--group-ranks: ", flags.group_ranks, " is less than the ",
                               flags.ranks, " of --ranks"));
  }
  if (flags.batch_size > 1 && flags.group_ranks > flags.ranks) {
    return Refuse(absl::StrCat("--batch-size: ", flags.batch_size,
                               " needs all ranks of the group on this worker, but it has ",
                               flags.ranks, " of the ", flags.group_ranks,
                               " of --group-ranks: the limit is 1"));
  }
  const absl::StatusOr<std::unique_ptr<ListenTls>> tls = CheckAddresses(flags);
  if (!tls.ok()) return Refuse(std::string(tls.status().message()));

  LoadOptions load{.model_dir = flags.model,
                   .devices = devices.ok() ? *devices : AbsentGpus(flags.ranks),
                   .group_ranks = flags.group_ranks,
                   .layout = *std::move(layout),
                   .batch_size = flags.batch_size,
                   .threads = flags.threads,
                   .default_guidance = flags.default_guidance,
                   .warm_up = *std::move(warm_up),
                   .load_timeout = flags.load_timeout,
                   .first_run_timeout = flags.first_run_timeout,
                   .phase_timeout = flags.phase_timeout,
                   .watch = {}};
  if (flags.check) return Check(devices.status(), load);

  const absl::StatusOr<RankWatch> watch = StartWatch(flags);
  if (!watch.ok()) return Refuse(std::string(watch.status().message()));
  load.watch = *watch;

  Ending ending;
  TakeSignals(signals, ending);
  const auto device_watch = std::make_shared<DeviceWatch>(load.devices.of_rank);
  Worker worker(OptionsOf(flags, std::move(load), process_start, device_watch, ending));
  const DeviceAlarm alarm(
      [device_watch] { return device_watch->AskDriver(); }, kAskDriver,
      [&worker](const DeviceFault& fault) {
        worker.Fail(WithEngineReason(absl::UnavailableError(fault.text), "ENGINE_FAILED"));
      });
  WorkerService service(worker);
  const std::unique_ptr<grpc::Server> server = Serve(flags, **tls, service);
  if (server == nullptr) {
    Log(LogLevel::kError, "refused",
        {{"why", "can't listen"}, {"socket", flags.socket}, {"listen", flags.listen}});
    EndNow(kExitRefused);
  }
  const WorkerHealth health(worker, *server->GetHealthCheckService());
  grpc::CallbackGenericService nothing;
  std::unique_ptr<grpc::Server> probed;
  std::optional<WorkerHealth> probes;
  if (!flags.health.empty()) {
    probed = ServeHealth(flags.health, nothing);
    if (probed == nullptr) {
      Log(LogLevel::kError, "refused", {{"why", "can't listen"}, {"health", flags.health}});
      EndNow(kExitRefused);
    }
    probes.emplace(worker, *probed->GetHealthCheckService());
  }

  const Ending::Reason reason = ending.Wait();
  Log(reason.exit_code == kExitOk ? LogLevel::kInfo : LogLevel::kError, "ending",
      {{"why", reason.text}});
  if (reason.exit_code != kExitOk) {
    service.AwaitTold(kTellFailure);
    absl::SleepFor(kReach);
  }
  const WorkerState state = worker.Describe().state;
  const bool loading = state == WorkerState::kLoading || state == WorkerState::kWarming;
  const bool stopped =
      reason.exit_code == kExitOk && worker.Stop(loading ? absl::ZeroDuration() : kStopJob);
  server->Shutdown(absl::ToChronoTime(absl::Now() + kEndCalls));
  if (probed != nullptr) probed->Shutdown(absl::ToChronoTime(absl::Now() + kEndCalls));
  if (!stopped) EndNow(reason.exit_code);
  FlushLog();
  return kExitOk;
}

}  // namespace
}  // namespace patchflow

int main(int argc, char** argv) {
  patchflow::WaitWithoutSpinning(argv);
  return patchflow::Main(argc, argv);
}
