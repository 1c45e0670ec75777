#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "client/commands.h"
#include "server/audit.h"
#include "tests/client/scratch_folder.h"
#include "tests/server/generations.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kLog[] =
    R"({"time":"2026-01-01T00:00:00.000000Z","event":"call","identity":"studio","code":"OK"}
{"time":"2026-01-02T00:00:00.000000Z","event":"call","identity":"studio","code":"UNAVAILABLE"}
{"time":"2026-01-02T00:00:00.000000Z","event":"call","identity":"","code":"OK"}
{"time":"2026-01-02T00:00:01.000000Z","event":"generation","identity":"studio","code":"OK","width":1000,"height":500,"steps":20,"images":3,"device_seconds":2.5,"image_bytes":700}
{"time":"2026-01-03T00:00:01.000000Z","event":"generation","identity":"studio","code":"CANCELLED","width":1000,"height":500,"steps":20,"images":0,"device_seconds":0.5,"image_bytes":0}
)";

class UsageCommandTest : public testing::Test {
 protected:
  UsageCommandTest() { std::ofstream(folder_ / "audit.jsonl") << kLog; }

  int Run(std::vector<std::string> arguments) {
    std::vector<const char*> argv = {"patchflow", "usage"};
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    Console console{out_, err_};
    Interrupt interrupt;
    return RunClient(static_cast<int>(argv.size()), argv.data(), console, interrupt);
  }
  nlohmann::json Sums(std::vector<std::string> arguments, int status = kExitOk) {
    arguments.push_back("--json");
    out_.str("");
    EXPECT_EQ(Run(arguments), status) << err_.str();
    return nlohmann::json::parse(out_.str());
  }

  ScratchFolder folder_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(UsageCommandTest, SumsWhatEachIdentityUsed) {
  const auto sums = Sums({folder_ / "audit.jsonl"});
  ASSERT_EQ(sums.size(), 2U);
  EXPECT_EQ(sums[0]["identity"], "");
  const auto& studio = sums[1];
  EXPECT_EQ(studio["calls"], 2);
  EXPECT_EQ(studio["failed"], 1);
  EXPECT_EQ(studio["generations"], 2);
  EXPECT_EQ(studio["images"], 3);
  EXPECT_EQ(studio["megapixel_steps"], 30.0) << "3 images of half a megapixel in 20 steps";
  EXPECT_EQ(studio["device_seconds"], 3.0) << "cancelled work was used too";
  EXPECT_EQ(studio["image_bytes"], 700);
}

TEST_F(UsageCommandTest, AddsFilesUp) {
  const auto sums = Sums({folder_ / "audit.jsonl", folder_ / "audit.jsonl"});
  EXPECT_EQ(sums[1]["images"], 6);
}

TEST_F(UsageCommandTest, LeavesOutWhatIsOlder) {
  const auto sums = Sums({folder_ / "audit.jsonl", "--since", "2026-01-02"});
  EXPECT_EQ(sums[1]["calls"], 1);
  EXPECT_EQ(sums[1]["generations"], 2);
}

TEST_F(UsageCommandTest, PrintsATable) {
  EXPECT_EQ(Run({folder_ / "audit.jsonl"}), kExitOk);
  EXPECT_THAT(out_.str(), HasSubstr("IDENTITY"));
  EXPECT_THAT(out_.str(), HasSubstr("\nstudio "));
  EXPECT_THAT(out_.str(), HasSubstr("\n-  "));
}

TEST_F(UsageCommandTest, PassesOverOtherEvents) {
  std::ofstream(folder_ / "more.jsonl")
      << kLog << R"({"time":"2026-01-02T00:00:00.000000Z","event":"later","identity":"studio"})"
      << "\n"
      << R"({"time":"2026-01-02T00:00:00.000000Z","event":"later"})"
      << "\n";
  const auto sums = Sums({folder_ / "more.jsonl"});
  EXPECT_EQ(sums, Sums({folder_ / "audit.jsonl"}));
  EXPECT_THAT(err_.str(), IsEmpty());
}

TEST_F(UsageCommandTest, TellsOfLinesThatAreNoneAndAddsTheOthers) {
  std::ofstream(folder_ / "bad.jsonl")
      << "\n{\"time\": 7}\n"
      << kLog << R"({"time":"2026-01-03T00:00:00.000000Z","event":"call","code":"OK"})"
      << "\n"
      << R"({"time":"2026-01-03T00:00:00.000000Z","event":"generation","identity":"studio","images":"3"})"
      << "\n[]\n{\"time\":\"2026-01-0";
  const auto sums = Sums({folder_ / "bad.jsonl"}, kExitOther);
  ASSERT_EQ(sums.size(), 2U);
  EXPECT_EQ(sums[1]["generations"], 2);
  EXPECT_EQ(sums[1]["images"], 3);
  for (const int line : {2, 8, 9, 10, 11}) {
    EXPECT_THAT(err_.str(),
                HasSubstr(absl::StrCat("bad.jsonl:", line, ": is no line of an audit log\n")));
  }
  EXPECT_THAT(err_.str(), Not(HasSubstr("bad.jsonl:3:")));
}

TEST_F(UsageCommandTest, NamesTenLinesThatAreNoneAndCountsTheOthers) {
  std::ofstream log(folder_ / "bad.jsonl");
  for (int i = 0; i < 1000; ++i) log << "no\n";
  log.close();
  EXPECT_EQ(Run({folder_ / "bad.jsonl", folder_ / "bad.jsonl"}), kExitOther);
  EXPECT_THAT(err_.str(), HasSubstr("bad.jsonl:10: is no"));
  EXPECT_THAT(err_.str(), Not(HasSubstr("bad.jsonl:11: is no")));
  EXPECT_THAT(err_.str(), HasSubstr("so are 1990 more\n"));
}

TEST_F(UsageCommandTest, LeavesOutOldLinesThatAreNone) {
  std::ofstream(folder_ / "bad.jsonl")
      << "{\"ti\n"
      << R"({"time":"2026-01-01T00:00:00.000000Z","event":"lost","lines":7})"
      << "\n"
      << "{\"time\":\"20\n"
      << kLog;
  const auto sums = Sums({folder_ / "bad.jsonl", "--since", "2026-01-02"});
  EXPECT_EQ(sums[1]["calls"], 1);
  EXPECT_THAT(err_.str(), IsEmpty());
}

TEST_F(UsageCommandTest, FailsWithoutAFile) {
  for (const std::string& path : {folder_ / "absent", folder_ / "."}) {
    EXPECT_EQ(Run({folder_ / "audit.jsonl", path}), kExitUsage);
    EXPECT_THAT(err_.str(), HasSubstr("can't read " + path));
    EXPECT_THAT(out_.str(), IsEmpty());
  }
}

// Logs that a server wrote. A limit of the process stands in for the end of a disk.
class UsageOfAServerTest : public UsageCommandTest {
 protected:
  UsageOfAServerTest() : before_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &limit_);
    config_.file = folder_ / "server.jsonl";
  }
  ~UsageOfAServerTest() override {
    SetLimit(limit_.rlim_cur);
    std::signal(SIGXFSZ, before_);
  }
  void SetLimit(rlim_t bytes) const {
    const rlimit limit{bytes, limit_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  std::unique_ptr<AuditLog> Open() const {
    auto log = AuditLog::Open(config_);
    EXPECT_TRUE(log.ok()) << log.status();
    return *std::move(log);
  }
  static void AddCalls(AuditLog& log, int number) {
    for (int i = 0; i < number; ++i) {
      log.Call({{"method", "GetModel"}, {"identity", "studio"}, {"code", "OK"}});
    }
  }
  static void AddGeneration(AuditLog& log) {
    GenerationSpec spec = TestSpec("a");
    spec.owner.name = "studio";
    auto generation = MakeGeneration(std::move(spec));
    ASSERT_TRUE(generation->Start());
    AddImage(*generation, 0, 300);
    log.Ended(*generation);
  }
  void AwaitWritten(const AuditLog& log) const {
    ASSERT_TRUE(Eventually([&] { return log.figures().waiting == 0; }));
  }

  rlim_t limit() const { return limit_.rlim_cur; }

  AuditConfig config_;

 private:
  rlimit limit_{};
  void (*before_)(int);
};

TEST_F(UsageOfAServerTest, PassesOverWhatTheAdminServiceDid) {
  auto log = Open();
  AddCalls(*log, 1);
  log->Admin({{"method", "Drain"}, {"identity", "operator"}, {"code", "OK"}});
  log.reset();
  const auto sums = Sums({config_.file});
  ASSERT_EQ(sums.size(), 1U);
  EXPECT_EQ(sums[0]["identity"], "studio");
  EXPECT_EQ(sums[0]["calls"], 1);
  EXPECT_THAT(err_.str(), IsEmpty());
}

TEST_F(UsageOfAServerTest, IsSummedBesideALineThatWasCutOff) {
  auto log = Open();
  AddGeneration(*log);
  AwaitWritten(*log);
  SetLimit(std::filesystem::file_size(config_.file) + 50);
  AddCalls(*log, 1);
  ASSERT_TRUE(Eventually([&] { return log->figures().waiting == 1; }));
  log.reset();
  SetLimit(limit());
  log = Open();
  AddCalls(*log, 2);
  AddGeneration(*log);
  log.reset();
  const auto sums = Sums({config_.file}, kExitOther);
  ASSERT_EQ(sums.size(), 1U);
  EXPECT_EQ(sums[0]["identity"], "studio");
  EXPECT_EQ(sums[0]["calls"], 2);
  EXPECT_EQ(sums[0]["generations"], 2);
  EXPECT_EQ(sums[0]["images"], 2);
  EXPECT_EQ(err_.str(), "patchflow: " + config_.file + ":2: is no line of an audit log\n");
}

TEST_F(UsageOfAServerTest, TellsHowManyLinesAFullDiskCost) {
  auto log = Open();
  AddGeneration(*log);
  AwaitWritten(*log);
  SetLimit(std::filesystem::file_size(config_.file) + 50);
  AddCalls(*log, 40000);
  AddGeneration(*log);
  const int64_t lost = log->figures().lost;
  ASSERT_GT(lost, 10000);
  SetLimit(limit());
  AwaitWritten(*log);
  log.reset();
  const auto sums = Sums({config_.file}, kExitOther);
  ASSERT_EQ(sums.size(), 1U) << "a line without an identity is nobody's";
  EXPECT_EQ(sums[0]["calls"], 40000 - lost);
  EXPECT_EQ(sums[0]["generations"], 2);
  EXPECT_THAT(err_.str(), HasSubstr(absl::StrCat("missing from the sums: ", lost, "\n")));
  EXPECT_THAT(err_.str(), Not(HasSubstr("is no line")));
}

}  // namespace
}  // namespace patchflow
