#include "server/check_worker.h"

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fcntl.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "server/worker_process.h"

extern char** environ;

namespace patchflow {
namespace {

constexpr size_t kMaxAnswerBytes = 64 << 10;

struct Answer {
  std::optional<int> status;  // As of waitpid(); nullopt: none in time.
  std::string text;
};

std::vector<std::string> CommandOf(const std::string& binary, GroupConfig group,
                                   const Supervision& supervision) {
  const int all = group.ranks;
  if (group.processes > 1) {
    group.ranks = all / group.processes;
    group.first_gpu += all - group.ranks;
  }
  std::vector<std::string> command = WorkerCommand(binary, group, "unused", supervision);
  if (group.processes > 1) {
    command.insert(command.end(), {"--group-ranks", absl::StrCat(all)});
  }
  command.emplace_back("--check");
  return command;
}

// Until nobody can write any more, or `end`.
void ReadAll(int from, absl::Time end, std::string& text) {
  char bytes[4096];
  for (;;) {
    const int64_t left_ms = absl::ToInt64Milliseconds(end - absl::Now());
    pollfd ready{from, POLLIN, 0};
    const int polled = left_ms <= 0 ? 0 : poll(&ready, 1, static_cast<int>(left_ms));
    if (polled == 0) {
      return;
    }
    const ssize_t size = polled < 0 ? -1 : read(from, bytes, sizeof bytes);
    if (size == 0 || (size < 0 && errno != EINTR)) {
      return;
    }
    const size_t room = kMaxAnswerBytes - std::min(kMaxAnswerBytes, text.size());
    text.append(bytes, std::min(room, static_cast<size_t>(std::max<ssize_t>(size, 0))));
  }
}

// Its status; killed at `end`: nullopt.
std::optional<int> Await(pid_t pid, absl::Time end) {
  int status = 0;
  for (;;) {
    const pid_t ended = waitpid(pid, &status, WNOHANG);
    if (ended == pid) {
      return status;
    }
    if (absl::Now() >= end) {
      kill(pid, SIGKILL);
      while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
      }
      return std::nullopt;
    }
    absl::SleepFor(absl::Milliseconds(2));
  }
}

absl::StatusOr<Answer> Run(const std::vector<std::string>& command, absl::Duration limit) {
  const std::vector<char*> argv = ArgvOf(command);
  int output[2];
  if (pipe2(output, O_CLOEXEC) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot make a pipe: ", std::strerror(errno)));
  }
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, output[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&files, output[1], STDERR_FILENO);
  pid_t pid = -1;
  const int error = posix_spawn(&pid, argv[0], &files, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  close(output[1]);
  Answer answer;
  if (error == 0) {
    const absl::Time end = absl::Now() + limit;
    ReadAll(output[0], end, answer.text);
    answer.status = Await(pid, end);
  }
  close(output[0]);
  if (error != 0) {
    return absl::UnavailableError(absl::StrCat("cannot be started: ", std::strerror(error)));
  }
  return answer;
}

std::string Text(const nlohmann::json& line, const char* key) {
  return line.value(key, nlohmann::json()).is_string() ? line[key].get<std::string>() : "";
}

// The worker logs JSON; what is wrong with an option, its parser says in plain lines.
WorkerOpinion Understand(const Answer& answer, const std::string& what) {
  std::vector<std::string> refusals;
  std::vector<std::string> plain;
  WorkerOpinion opinion{{what, CheckRow::kGood, "takes it"}};
  for (const std::string& text :
       std::vector<std::string>(absl::StrSplit(answer.text, '\n', absl::SkipEmpty()))) {
    const nlohmann::json line = nlohmann::json::parse(text, nullptr, false);
    if (!line.is_object()) {
      plain.push_back(text);
    } else if (Text(line, "msg") == "refused") {
      refusals.push_back(Text(line, "why"));
      opinion.fits = opinion.fits && Text(line, "what") == "devices";
    } else if (Text(line, "msg") == "checked") {
      opinion.row.text = absl::StrCat("takes it: device ", Text(line, "device"), ", dtype ",
                                      Text(line, "dtype"), ", layout ", Text(line, "layout"));
    }
  }
  const int status = *answer.status;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    return opinion;
  }
  opinion.row.verdict = CheckRow::kBad;
  opinion.fits = opinion.fits && !refusals.empty();
  if (!refusals.empty()) {
    opinion.row.text = absl::StrJoin(refusals, "; ");
    return opinion;
  }
  plain.resize(std::min<size_t>(plain.size(), 1));
  opinion.row.text =
      absl::StrCat(WIFSIGNALED(status) ? absl::StrCat("ended by signal ", WTERMSIG(status))
                                       : absl::StrCat("exit status ", WEXITSTATUS(status)),
                   plain.empty() ? "" : ": ", absl::StrJoin(plain, ""));
  return opinion;
}

}  // namespace

WorkerOpinion AskWorker(const std::string& binary, const GroupConfig& group,
                        const Supervision& supervision, const std::string& what,
                        absl::Duration limit) {
  const absl::StatusOr<Answer> answer = Run(CommandOf(binary, group, supervision), limit);
  if (!answer.ok()) {
    return {{what, CheckRow::kBad, absl::StrCat(binary, " ", answer.status().message())}, false};
  }
  if (!answer->status.has_value()) {
    return {{what, CheckRow::kWarning,
             absl::StrCat(binary, " --check has not answered within ", absl::FormatDuration(limit),
                          ": layout and sizes are not looked at")}};
  }
  return Understand(*answer, what);
}

}  // namespace patchflow
