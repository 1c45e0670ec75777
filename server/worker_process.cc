#include "server/worker_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/clock.h"
#include "server/log.h"

namespace patchflow {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(2);
constexpr absl::Duration kReap = absl::Seconds(1);

// Between fork and exec: only what is safe in a signal handler. Ends the process if anything fails.
[[noreturn]] void BecomeWorker(char* const* argv, pid_t parent, int output) {
  setpgid(0, 0);  // Ctrl-C is for the server, which drains first.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) {
    _exit(127);
  }
  for (int number : {SIGINT, SIGTERM, SIGPIPE, SIGHUP}) {
    signal(number, SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
#ifdef SYS_close_range
  syscall(SYS_close_range, 3U, ~0U, 0U);
#endif
  execv(argv[0], argv);
  _exit(127);
}

ProcessEnd Describe(int status, const rusage& used) {
  ProcessEnd end;
  end.memory_peak_bytes = int64_t{1024} * used.ru_maxrss;
  if (WIFSIGNALED(status)) {
    end.signal = WTERMSIG(status);
    end.text = absl::StrCat("signal ", end.signal, " (", sigdescr_np(end.signal), ")");
    return end;
  }
  end.status = WEXITSTATUS(status);
  end.refused = end.status == kExitRefused;
  end.text = absl::StrCat("exit status ", end.status);
  if (end.sick_device()) {
    absl::StrAppend(&end.text, ": a device is broken");
  } else if (end.sticky_error() != 0) {
    absl::StrAppend(&end.text, ": a device gives CUDA error ", end.sticky_error());
  }
  return end;
}

// Since the system was started; 0 where the kernel does not count them.
int64_t MemoryKillsOfSystem() {
  std::ifstream file("/proc/vmstat");
  std::string key;
  int64_t value = 0;
  while (file >> key >> value) {
    if (key == "oom_kill") {
      return value;
    }
  }
  return 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerProcess>> WorkerProcess::Start(
    const std::vector<std::string>& command) {
  const std::vector<char*> argv = ArgvOf(command);
  int output[2];
  if (pipe2(output, O_CLOEXEC) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot make a pipe: ", std::strerror(errno)));
  }
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    BecomeWorker(argv.data(), parent, output[1]);
  }
  close(output[1]);
  if (pid < 0) {
    const std::string why = std::strerror(errno);
    close(output[0]);
    return absl::UnavailableError(absl::StrCat("cannot start a process: ", why));
  }
  return std::unique_ptr<WorkerProcess>(new WorkerProcess(pid, output[0]));
}

std::vector<char*> ArgvOf(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const std::string& word : command) {
    argv.push_back(const_cast<char*>(word.c_str()));
  }
  argv.push_back(nullptr);
  return argv;
}

WorkerProcess::WorkerProcess(pid_t pid, int output)
    : pid_(pid), memory_kills_before_(MemoryKillsOfSystem()), tail_(output, STDERR_FILENO) {}

WorkerProcess::~WorkerProcess() {
  if (Kill(kReap)) {
    return;
  }
  std::thread([pid = pid_] {
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
  }).detach();
}

std::optional<ProcessEnd> WorkerProcess::Poll() {
  int status = 0;
  if (!end_.has_value()) {
    rusage used{};
    const pid_t ended = wait4(pid_, &status, WNOHANG, &used);
    if (ended == pid_) {
      end_ = Describe(status, used);
    } else if (ended < 0 && errno != EINTR) {
      end_ = ProcessEnd{};
      end_->text = "it was not our child any more";
    }
  }
  return end_;
}

void WorkerProcess::Signal(int signal) {
  if (!Poll().has_value()) {
    kill(pid_, signal);
  }
}

void WorkerProcess::Stop(absl::Duration grace) {
  Signal(SIGTERM);
  EndsWithin(grace);
  Signal(SIGKILL);
}

bool WorkerProcess::Kill(absl::Duration wait) {
  Signal(SIGKILL);
  return EndsWithin(wait);
}

bool WorkerProcess::EndsWithin(absl::Duration wait) {
  const auto until = Clock::now() + ToClock(wait);
  while (!Poll().has_value() && Clock::now() < until) {
    std::this_thread::sleep_for(kPoll);
  }
  return Poll().has_value();
}

int ProcessEnd::sticky_error() const {
  const int offset = status - kExitStickyError;
  return signal == 0 && offset >= 0 && offset < kStickyErrors ? 700 + offset : 0;
}

std::string WorkerProcess::State() const {
  std::ifstream file(absl::StrCat("/proc/", pid_, "/status"));
  std::string line;
  while (!end_.has_value() && std::getline(file, line)) {
    if (line.rfind("State:", 0) == 0) {
      return line.substr(std::min(line.size(), line.find_first_not_of(" \t", 6)));
    }
  }
  return "";
}

std::vector<std::string> WorkerProcess::LastLines() {
  if (end_.has_value()) {
    tail_.Finish();
  }
  return tail_.Lines();
}

int64_t WorkerProcess::KernelMemoryKills() const {
  return MemoryKillsOfSystem() - memory_kills_before_;
}

std::string RecorderFile(const std::string& socket) { return absl::StrCat(socket, ".recorder"); }

std::vector<std::string> WorkerCommand(const std::string& binary, const GroupConfig& group,
                                       const std::string& socket, const Supervision& supervision,
                                       const std::string& fault_orders) {
  std::vector<std::string> command = {binary,
                                      "--socket",
                                      socket,
                                      "--model",
                                      group.model,
                                      "--device",
                                      group.device,
                                      "--dtype",
                                      group.dtype,
                                      "--ranks",
                                      absl::StrCat(group.ranks)};
  const auto add = [&](const char* flag, const std::string& value) {
    command.emplace_back(flag);
    command.push_back(value);
  };
  if (!group.layout.empty()) {
    add("--layout", group.layout);
  }
  if (group.first_gpu > 0) {
    add("--first-gpu", absl::StrCat(group.first_gpu));
  }
  if (group.threads > 0) {
    add("--threads", absl::StrCat(group.threads));
  }
  if (group.default_guidance > 0) {
    add("--default-guidance", absl::StrCat(group.default_guidance));
  }
  if (!group.warmup.empty()) {
    add("--warm-up", absl::StrJoin(group.warmup, ","));
  }
  if (group.batch_size > 1) {
    add("--batch-size", absl::StrCat(group.batch_size));
  }
  const auto seconds = [&](const char* flag, absl::Duration duration) {
    add(flag, absl::StrCat(std::max(1.0, absl::ToDoubleSeconds(duration))));
  };
  // The worker's own watch comes first: it knows which rank it waits for.
  seconds("--load-timeout", 0.9 * supervision.load_timeout);
  seconds("--first-run-timeout", supervision.first_run_timeout);
  seconds("--phase-timeout", supervision.phase_timeout);
  add("--black-box", RecorderFile(socket));
  add("--log-level", LogLevel());
  if (!fault_orders.empty()) {
    add("--fault-orders", fault_orders);
  }
  return command;
}

absl::StatusOr<std::string> FindWorkerBinary(const std::string& configured) {
  std::error_code error;
  std::string path = configured;
  if (path.empty()) {
    const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
    path = (self.parent_path() / "patchflow-worker").string();
  }
  if (!std::filesystem::is_regular_file(path, error) || access(path.c_str(), X_OK) != 0) {
    return absl::NotFoundError(absl::StrCat(
        "no worker program '", path, "'",
        configured.empty() ? "; build it, or name one with worker_binary" : " (worker_binary)"));
  }
  return path;
}

}  // namespace patchflow
