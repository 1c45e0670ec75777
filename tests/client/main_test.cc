// The program itself, as the shell starts it.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/client/fake_service.h"
#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(20);

// patchflow in a process of its own; killed if it outlives the test.
class Program {
 public:
  explicit Program(std::vector<std::string> arguments) {
    int pipe_ends[2];
    if (pipe2(pipe_ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], STDERR_FILENO);
    arguments.insert(arguments.begin(), PATCHFLOW_PROGRAM);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    if (posix_spawn(&pid_, PATCHFLOW_PROGRAM, &actions, nullptr, argv.data(), environ) != 0) {
      throw std::runtime_error("posix_spawn");
    }
    posix_spawn_file_actions_destroy(&actions);
    close(pipe_ends[1]);
    output_ = pipe_ends[0];
  }
  ~Program() {
    if (!waited_) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(output_);
  }

  // Reads until `text` was written, or the end; all that was read.
  std::string ReadUntil(const std::string& text) {
    const absl::Time end = absl::Now() + kPatience;
    while (absl::Now() < end && read_.find(text) == std::string::npos) {
      pollfd ready{output_, POLLIN, 0};
      if (poll(&ready, 1, 100) <= 0) continue;
      char buffer[4096];
      const ssize_t bytes = read(output_, buffer, sizeof buffer);
      if (bytes <= 0) break;
      read_.append(buffer, static_cast<size_t>(bytes));
    }
    return read_;
  }

  void Signal(int number) const { kill(pid_, number); }

  // As waitpid tells it, or -1 if the program goes on too long.
  int Wait() {
    const absl::Time end = absl::Now() + kPatience;
    int status = 0;
    while (absl::Now() < end) {
      if (waitpid(pid_, &status, WNOHANG) == pid_) {
        waited_ = true;
        return status;
      }
      absl::SleepFor(absl::Milliseconds(5));
    }
    return -1;
  }

 private:
  pid_t pid_ = 0;
  int output_ = -1;
  bool waited_ = false;
  std::string read_;
};

class MainTest : public testing::Test {
 protected:
  // Accepts, then waits for the client to go.
  void AcceptAndWait() {
    service_.on_generate = [this](grpc::ServerContext& context,
                                  const v1::GenerateImagesRequest& request,
                                  const FakeService::Write& write) {
      write(WholeGeneration(request).messages[0]);
      const absl::Time end = absl::Now() + kPatience;
      while (!context.IsCancelled() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
      if (context.IsCancelled()) cancelled_ = true;
      return grpc::Status::CANCELLED;
    };
  }

  bool SeesCancellation() {
    const absl::Time end = absl::Now() + kPatience;
    while (!cancelled_ && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
    return cancelled_;
  }

  ScratchFolder folder_;
  FakeService service_;
  FakeServer server_{service_};
  std::atomic<bool> cancelled_ = false;
};

TEST_F(MainTest, WritesAnImage) {
  Program program({"generate", "a fish", "--seed", "42", "--server", server_.address(), "--out",
                   folder_ / "a.png"});
  EXPECT_EQ(program.Wait(), 0);
  EXPECT_THAT(program.ReadUntil("done"), HasSubstr("a.png  64x32  seed 42"));
  EXPECT_EQ(ReadFile(folder_ / "a.png"), ImageBytes(42));
}

TEST_F(MainTest, CtrlCClosesTheStreamAtOnce) {
  for (int number : {SIGINT, SIGTERM}) {
    cancelled_ = false;
    AcceptAndWait();
    Program program(
        {"generate", "a fish", "--server", server_.address(), "--out", folder_ / "a.png"});
    ASSERT_THAT(program.ReadUntil("accepted"), HasSubstr("accepted"));
    const absl::Time start = absl::Now();
    program.Signal(number);
    const int status = program.Wait();
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 6);
    EXPECT_LT(absl::Now() - start, absl::Seconds(5));
    EXPECT_TRUE(SeesCancellation());
    EXPECT_THAT(program.ReadUntil("interrupted"), HasSubstr("patchflow: CANCELLED: interrupted"));
    EXPECT_EQ(folder_.num_files(), 0U);
  }
}

TEST_F(MainTest, CtrlCEndsTheWaitForARetry) {
  service_.on_generate = [](grpc::ServerContext&, const v1::GenerateImagesRequest&,
                            const FakeService::Write&) {
    return ErrorStatus(grpc::UNAVAILABLE, "DRAINING", "the server drains", 300);
  };
  Program program({"generate", "a fish", "--server", server_.address()});
  ASSERT_THAT(program.ReadUntil("retry 1 of 5"), HasSubstr("retry 1 of 5 in 300.0 s"));
  program.Signal(SIGINT);
  const int status = program.Wait();
  EXPECT_EQ(WEXITSTATUS(status), 6);
}

TEST_F(MainTest, AKilledClientCancelsTheCall) {
  AcceptAndWait();
  {
    Program program({"generate", "a fish", "--server", server_.address()});
    ASSERT_THAT(program.ReadUntil("accepted"), HasSubstr("accepted"));
  }
  EXPECT_TRUE(SeesCancellation());
}

}  // namespace
}  // namespace patchflow
