#include "server/worker_process.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/clock.h"

namespace patchflow {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(2);

// Between fork and exec: only what is safe in a signal handler. Ends the process if anything fails.
[[noreturn]] void BecomeWorker(char* const* argv, pid_t parent) {
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
  dup2(STDERR_FILENO, STDOUT_FILENO);
#ifdef SYS_close_range
  syscall(SYS_close_range, 3U, ~0U, 0U);
#endif
  execv(argv[0], argv);
  _exit(127);
}

ProcessEnd Describe(int status) {
  if (WIFSIGNALED(status)) {
    const int number = WTERMSIG(status);
    return {false, absl::StrCat("signal ", number, " (", sigdescr_np(number), ")")};
  }
  const int code = WEXITSTATUS(status);
  return {code == kExitRefused, absl::StrCat("exit status ", code)};
}

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerProcess>> WorkerProcess::Start(
    const std::vector<std::string>& command) {
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const std::string& word : command) {
    argv.push_back(const_cast<char*>(word.c_str()));
  }
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    BecomeWorker(argv.data(), parent);
  }
  if (pid < 0) {
    return absl::UnavailableError(absl::StrCat("cannot start a process: ", std::strerror(errno)));
  }
  return std::unique_ptr<WorkerProcess>(new WorkerProcess(pid));
}

WorkerProcess::~WorkerProcess() {
  if (Poll().has_value()) {
    return;
  }
  kill(pid_, SIGKILL);
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
}

std::optional<ProcessEnd> WorkerProcess::Poll() {
  int status = 0;
  if (!end_.has_value()) {
    const pid_t ended = waitpid(pid_, &status, WNOHANG);
    if (ended == pid_) {
      end_ = Describe(status);
    } else if (ended < 0 && errno != EINTR) {
      end_ = ProcessEnd{false, "it was not our child any more"};
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
  const auto until = Clock::now() + ToClock(grace);
  while (!Poll().has_value() && Clock::now() < until) {
    std::this_thread::sleep_for(kPoll);
  }
  Signal(SIGKILL);
}

std::vector<std::string> WorkerCommand(const std::string& binary, const GroupConfig& group,
                                       const std::string& socket, absl::Duration load_timeout) {
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
  if (group.threads > 0) {
    add("--threads", absl::StrCat(group.threads));
  }
  if (group.default_guidance > 0) {
    add("--default-guidance", absl::StrCat(group.default_guidance));
  }
  add("--load-timeout", absl::StrCat(std::max(1.0, absl::ToDoubleSeconds(load_timeout))));
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
