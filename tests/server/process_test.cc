// The program itself: signals, exit statuses, and what outlives a kill -9.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "patchflow/v1/image_generation.grpc.pb.h"
#include "server/errors.h"
#include "server/status.h"
#include "tests/server/generations.h"
#include "tests/server/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

class ProcessTest : public ::testing::Test {
 protected:
  ProcessTest() {
    std::filesystem::create_directory(folder_.path("model"));
    setenv("PATCHFLOW_FAKE_STEP_MS", "20", 1);
    Configure(PATCHFLOW_FAKE_WORKER);
  }
  ~ProcessTest() override {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      ExitStatus();
    }
  }

  void Configure(const std::string& worker, const std::string& more = "") {
    folder_.Write("config.yaml", absl::StrCat("server: {listen: '127.0.0.1:0'}\n"
                                              "groups: [{model: model, model_name: shapes}]\n"
                                              "worker_binary: ",
                                              worker, "\nstore: {directory: store}\n",
                                              "supervision: {back_off: 10ms}\n", more));
  }
  void Start(const std::vector<std::string>& more = {}) {
    std::vector<std::string> words{PATCHFLOW_SERVER, "--config", folder_.path("config.yaml")};
    words.insert(words.end(), more.begin(), more.end());
    std::vector<char*> argv;
    for (std::string& word : words) {
      argv.push_back(word.data());
    }
    argv.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    const std::string log = folder_.path("log");
    for (int out : {STDOUT_FILENO, STDERR_FILENO}) {
      posix_spawn_file_actions_addopen(
          &files, out, log.c_str(), O_CREAT | O_WRONLY | O_APPEND | (out == 1 ? O_TRUNC : 0), 0600);
    }
    ASSERT_EQ(posix_spawn(&pid_, PATCHFLOW_SERVER, &files, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&files);
  }
  void Serve() {
    Start();
    ASSERT_TRUE(Eventually([&] {
      address_ = Logged(R"("listen":")", "\"");
      return !address_.empty();
    })) << folder_.Read("log");
    stub_ = v1::ImageGenerationService::NewStub(
        grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
    ASSERT_TRUE(Eventually([&] {
      auto context = Context();
      v1::ListModelsResponse list;
      return stub_->ListModels(context.get(), {}, &list).ok() && list.models(0).ready();
    })) << folder_.Read("log");
  }
  // Waits for its end; 128 + signal if it was killed, -1 if it does not end in 10 s.
  int ExitStatus() {
    int status = 0;
    const bool ended = Eventually([&] { return waitpid(pid_, &status, WNOHANG) == pid_; });
    pid_ = ended ? 0 : pid_;
    return !ended ? -1 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  pid_t WorkerPid() const {
    pid_t pid = 0;
    return absl::SimpleAtoi(Logged(R"("pid":)", ",}"), &pid) ? pid : 0;
  }
  // What first follows `key` in the log, up to one of `ends`; empty if it is not there.
  std::string Logged(std::string_view key, const char* ends) const {
    const std::string log = folder_.Read("log");
    const size_t at = log.find(key);
    const size_t begin = at == std::string::npos ? log.size() : at + key.size();
    const size_t end = log.find_first_of(ends, begin);
    return end == std::string::npos ? "" : log.substr(begin, end - begin);
  }

  static std::unique_ptr<grpc::ClientContext> Context() {
    auto context = std::make_unique<grpc::ClientContext>();
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    return context;
  }
  static v1::GenerateImagesRequest Detached(const std::string& id, int count = 2) {
    v1::GenerateImagesRequest request;
    request.set_request_id(id);
    request.mutable_prompt()->set_text("a star");
    request.mutable_sampling()->set_seed(7);
    request.mutable_sampling()->set_steps(10);
    request.mutable_image()->set_count(count);
    request.mutable_scheduling()->set_on_disconnect(v1::DISCONNECT_POLICY_DETACH);
    return request;
  }
  // Reads Accepted and leaves.
  void Submit(const v1::GenerateImagesRequest& request) {
    auto context = Context();
    auto reader = stub_->GenerateImages(context.get(), request);
    v1::GenerateImagesResponse message;
    ASSERT_TRUE(reader->Read(&message)) << folder_.Read("log");
    ASSERT_TRUE(message.has_accepted());
    context->TryCancel();
    while (reader->Read(&message)) {
    }
    reader->Finish();
  }
  struct Fetched {
    std::vector<std::string> images;
    absl::Status status;
  };
  Fetched Fetch(const std::string& id) {
    auto context = Context();
    v1::FetchGenerationRequest request;
    request.set_request_id(id);
    auto reader = stub_->FetchGeneration(context.get(), request);
    Fetched fetched;
    v1::FetchGenerationResponse response;
    while (reader->Read(&response)) {
      if (response.message().has_image_header()) {
        fetched.images.emplace_back();
      } else if (response.message().has_image_chunk()) {
        fetched.images.back() += response.message().image_chunk().data();
      }
    }
    fetched.status = FromGrpc(reader->Finish());
    return fetched;
  }

  ScratchFolder folder_;
  pid_t pid_ = 0;
  std::string address_;
  std::unique_ptr<v1::ImageGenerationService::Stub> stub_;
};

TEST_F(ProcessTest, MakesWhatItAcceptedBeforeItWasKilled) {
  Serve();
  Submit(Detached("undisturbed"));
  const Fetched undisturbed = Fetch("undisturbed");
  ASSERT_TRUE(undisturbed.status.ok()) << undisturbed.status;
  for (int i = 0; i < 3; ++i) {
    Submit(Detached(absl::StrCat("job", i)));
  }
  const pid_t worker = WorkerPid();
  kill(pid_, SIGKILL);
  EXPECT_EQ(ExitStatus(), 128 + SIGKILL);
  const auto killed = Clock::now();
  EXPECT_TRUE(Eventually([&] { return kill(worker, 0) != 0; }));
  EXPECT_LT(Clock::now() - killed, std::chrono::seconds(2)) << "the worker ends with its server";
  Serve();
  for (const char* id : {"undisturbed", "job0", "job1", "job2"}) {
    const Fetched fetched = Fetch(id);
    EXPECT_TRUE(fetched.status.ok()) << id << ": " << fetched.status;
    EXPECT_EQ(fetched.images, undisturbed.images) << id;
  }
}

TEST_F(ProcessTest, LeavesToTheNextWhatItCouldNotFinishBeforeItStopped) {
  Configure(PATCHFLOW_FAKE_WORKER, "drain: {timeout: 0s}\n");
  Serve();
  Submit(Detached("job"));
  kill(pid_, SIGTERM);
  EXPECT_EQ(ExitStatus(), 0);
  Serve();
  const Fetched fetched = Fetch("job");
  EXPECT_TRUE(fetched.status.ok()) << fetched.status;
  EXPECT_EQ(fetched.images.size(), 2U);
}

TEST_F(ProcessTest, EndsWhatWasAcceptedForAPlanThatIsGone) {
  Serve();
  Submit(Detached("job", 4));
  kill(pid_, SIGKILL);
  ExitStatus();
  folder_.Write("other",
                absl::StrCat("#!/bin/sh\nexec ", PATCHFLOW_FAKE_WORKER, " --plan plan-2 \"$@\"\n"));
  std::filesystem::permissions(folder_.path("other"), std::filesystem::perms::owner_all);
  Configure(folder_.path("other"));
  Serve();
  const Fetched fetched = Fetch("job");
  EXPECT_EQ(fetched.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(fetched.status), "PLAN_CHANGED");
}

TEST_F(ProcessTest, FinishesItsWorkAtTheFirstSignal) {
  Serve();
  Submit(Detached("job"));
  kill(pid_, SIGTERM);
  EXPECT_EQ(ExitStatus(), 0);
  EXPECT_THAT(folder_.Read("log"), HasSubstr(R"("ended_unfinished":0)"));
}

TEST_F(ProcessTest, EndsAtOnceAtTheSecondSignal) {
  setenv("PATCHFLOW_FAKE_STEP_MS", "1000", 1);
  Serve();
  Submit(Detached("job"));
  const pid_t worker = WorkerPid();
  kill(pid_, SIGTERM);
  ASSERT_TRUE(
      Eventually([&] { return folder_.Read("log").find("draining") != std::string::npos; }));
  const auto second = Clock::now();
  kill(pid_, SIGTERM);
  EXPECT_EQ(ExitStatus(), 128 + SIGTERM);
  EXPECT_LT(Clock::now() - second, std::chrono::seconds(1));
  EXPECT_TRUE(Eventually([&] { return kill(worker, 0) != 0; }));
}

TEST_F(ProcessTest, EndsAtSignalsAlsoWhileItStarts) {
  std::filesystem::remove(folder_.path("config.yaml"));
  ASSERT_EQ(mkfifo(folder_.path("config.yaml").c_str(), 0600), 0);  // As a disk that hangs.
  Start();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  kill(pid_, SIGTERM);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const auto second = Clock::now();
  kill(pid_, SIGTERM);
  EXPECT_EQ(ExitStatus(), 128 + SIGTERM);
  EXPECT_LT(Clock::now() - second, std::chrono::seconds(2));
  Start();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  kill(pid_, SIGTERM);
  EXPECT_EQ(ExitStatus(), 0) << "one is enough, within 5 s: nothing was accepted";
}

TEST_F(ProcessTest, LeavesToTheNextWhatItsWorkersCouldNotMake) {
  setenv("PATCHFLOW_FAKE_STEP_MS", "60", 1);
  Configure(PATCHFLOW_FAKE_WORKER, "drain: {timeout: 20s}\n");
  Serve();
  for (int i = 0; i < 4; ++i) {
    Submit(Detached(absl::StrCat("job", i)));
  }
  std::set<std::string> killed;
  const bool ended = Eventually([&] {
    const std::string log = folder_.Read("log");
    constexpr std::string_view kKey = R"("worker started","group":"shapes","pid":)";
    for (size_t at = log.find(kKey); at != std::string::npos; at = log.find(kKey, at + 1)) {
      const std::string pid = log.substr(
          at + kKey.size(), log.find_first_of(",}", at + kKey.size()) - at - kKey.size());
      if (killed.insert(pid).second) {
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        kill(std::stoi(pid), SIGKILL);
      }
    }
    return killed.size() == 5;
  });
  ASSERT_TRUE(ended) << folder_.Read("log");
  EXPECT_EQ(ExitStatus(), 1)
      << "five failures in a row, and it does not wait for what can't be made";
  Serve();
  int made = 0;
  for (int i = 0; i < 4; ++i) {
    const Fetched fetched = Fetch(absl::StrCat("job", i));
    made += fetched.status.ok() ? 1 : 0;
    EXPECT_TRUE(fetched.status.ok() || ReasonOf(fetched.status) == "POISON_REQUEST")
        << i << ": " << fetched.status;
  }
  EXPECT_GE(made, 3) << "one may have run at three deaths";
}

TEST_F(ProcessTest, ExitsWhenItsWorkerFailsFiveTimesInARow) {
  folder_.Write("broken",
                absl::StrCat("#!/bin/sh\necho start >>", folder_.path("starts"), "\nexit 1\n"));
  std::filesystem::permissions(folder_.path("broken"), std::filesystem::perms::owner_all);
  Configure(folder_.path("broken"), "drain: {timeout: 0s}\n");
  Start();
  EXPECT_EQ(ExitStatus(), 1);
  EXPECT_EQ(folder_.Read("starts"), "start\nstart\nstart\nstart\nstart\n");
  EXPECT_THAT(folder_.Read("log"), HasSubstr("5 failures in a row"));
}

TEST_F(ProcessTest, RefusesAStoreThatAnotherHolds) {
  Serve();
  const pid_t first = pid_;
  Start();
  EXPECT_EQ(ExitStatus(), 1);
  EXPECT_THAT(folder_.Read("log"), HasSubstr("is held by another server"));
  pid_ = first;
}

TEST_F(ProcessTest, ChecksWithoutStarting) {
  Start({"--check"});
  EXPECT_EQ(ExitStatus(), 1) << "the model is an empty folder";
  EXPECT_THAT(folder_.Read("log"), HasSubstr("BAD   groups[shapes].model"));
  EXPECT_THAT(folder_.Read("log"), HasSubstr("ok    server.listen"));
  EXPECT_FALSE(std::filesystem::exists(folder_.path("store")));
  folder_.Write("config.yaml", "groups: []");
  Start({"--check"});
  EXPECT_EQ(ExitStatus(), 1);
  EXPECT_THAT(folder_.Read("log"), HasSubstr("at least one group is needed"));
  folder_.Write("config.yaml",
                absl::StrCat("server: {listen: '127.0.0.1:0'}\ngroups: [{model: ",
                             std::filesystem::current_path().string(),
                             "/models/shapes-256}]\nworker_binary: ", PATCHFLOW_FAKE_WORKER, "\n"));
  Start({"--check"});
  EXPECT_EQ(ExitStatus(), 0) << folder_.Read("log");
}

}  // namespace
}  // namespace patchflow
