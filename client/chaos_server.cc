#include "client/chaos_server.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace patchflow {
namespace {

constexpr absl::Duration kGrace = absl::Seconds(10);

}  // namespace

absl::StatusOr<std::unique_ptr<ChaosServer>> ChaosServer::Start(const std::string& program,
                                                                const std::string& config,
                                                                absl::Duration timeout) {
  int log[2];
  if (pipe2(log, O_CLOEXEC) != 0)
    return absl::UnavailableError(absl::StrCat("can't make a pipe: ", std::strerror(errno)));
  std::string words[] = {program, "--config", config};
  char* argv[] = {words[0].data(), words[1].data(), words[2].data(), nullptr};
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, log[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&files, log[1], STDERR_FILENO);
  // In a group of its own and with no signal blocked, whatever this program does with Ctrl-C.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, program.c_str(), &files, &attributes, argv, environ);
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  close(log[1]);
  if (error != 0) {
    close(log[0]);
    return absl::UnavailableError(absl::StrCat("can't start ", program, ": ", strerror(error)));
  }
  std::unique_ptr<ChaosServer> server(new ChaosServer(pid, log[0]));
  const absl::StatusOr<Line> listening = server->Await("listening", 0, timeout);
  if (!listening.ok()) return listening.status();
  server->address_ = listening->fields.value("listen", "");
  server->orders_ = listening->fields.value("fault_orders", "");
  if (server->orders_.empty())
    return absl::FailedPreconditionError(absl::StrCat(
        config, " does not allow chaos, or starts no worker here: it needs 'chaos: true'"));
  const absl::StatusOr<Line> ready = server->Await("group ready", 0, timeout);
  if (!ready.ok()) return ready.status();
  return server;
}

ChaosServer::ChaosServer(pid_t pid, int log)
    : pid_(pid), log_(log), thread_([this] { Follow(); }) {}

ChaosServer::~ChaosServer() {
  kill(pid_, SIGTERM);
  const absl::Time until = absl::Now() + kGrace;
  while (waitpid(pid_, nullptr, WNOHANG) == 0) {
    if (absl::Now() > until) kill(pid_, SIGKILL);
    absl::SleepFor(absl::Milliseconds(10));
  }
  thread_.join();  // The pipe has ended with the last process that held it.
  close(log_);
}

void ChaosServer::Follow() {
  std::string text;
  char bytes[4096];
  ssize_t size = 0;
  while ((size = read(log_, bytes, sizeof bytes)) > 0 || (size < 0 && errno == EINTR)) {
    text.append(bytes, static_cast<size_t>(std::max<ssize_t>(size, 0)));
    size_t end = 0;
    while ((end = text.find('\n')) != std::string::npos) {
      Take(text.substr(0, end));
      text.erase(0, end + 1);
    }
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

void ChaosServer::Take(const std::string& line) {
  Line taken;
  taken.fields = nlohmann::json::parse(line, nullptr, false);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!taken.fields.is_object()) {
    last_text_ = line;
    return;
  }
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, taken.fields.value("time", ""), &taken.time, &error))
    return;
  taken.number = lines_.size();
  lines_.push_back(std::move(taken));
  changed_.notify_all();
}

pid_t ChaosServer::worker_pid() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto line = lines_.rbegin(); line != lines_.rend(); ++line) {
    if (line->fields.value("msg", "") == "worker started") return line->fields.value("pid", 0);
  }
  return 0;
}

size_t ChaosServer::num_lines() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return lines_.size();
}

absl::StatusOr<ChaosServer::Line> ChaosServer::Await(const std::string& msg, size_t from,
                                                     absl::Duration timeout) const {
  const auto until = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(timeout);
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    for (; from < lines_.size(); ++from) {
      if (lines_[from].fields.value("msg", "") == msg) return lines_[from];
    }
    if (ended_)
      return absl::UnavailableError(
          absl::StrCat("the server ended before '", msg, "': ", last_text_));
    if (changed_.wait_until(lock, until) == std::cv_status::timeout && from >= lines_.size())
      return absl::UnavailableError(absl::StrCat("the server did not say '", msg, "' within ",
                                                 absl::FormatDuration(timeout)));
  }
}

absl::Status ChaosServer::Order(const std::string& order) const {
  const std::string temporary = orders_ + ".new";
  std::ofstream file(temporary, std::ios::trunc);
  file << order;
  file.close();
  if (!file || std::rename(temporary.c_str(), orders_.c_str()) != 0)
    return absl::UnavailableError(absl::StrCat("can't write ", orders_));
  return absl::OkStatus();
}

bool ChaosServer::Withdraw() const { return std::remove(orders_.c_str()) == 0; }

}  // namespace patchflow
