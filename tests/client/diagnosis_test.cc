#include "client/diagnosis.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

json Box(const std::vector<std::string>& events, const std::string& kind = "failed",
         const json& process = {
             {"end", {{"text", "exit status 1"}, {"signal", 0}, {"status", 1}}}}) {
  json box = {{"loss", {{"kind", kind}, {"why", "it failed"}}}, {"process", process}};
  int number = 0;
  for (const std::string& event : events) {
    box["recorder"]["events"].push_back("0000000" + std::to_string(number++) + " 1.5 " + event);
  }
  return box;
}

json Signalled(int signal, int memory_kills = 0) {
  return {{"end", {{"text", "signal 9 (Killed)"}, {"signal", signal}, {"status", 0}}},
          {"kernel_memory_kills", memory_kills}};
}

struct Case {
  Cause cause;
  json box;
  const char* says;
};

const char kStuck[] = "fault: rank 0 showed no progress for 3s in denoise, after 1 steps";

std::vector<Case> Cases() {
  return {
      {Cause::kKilled, Box({"rank 0: denoise"}, "process_ended", Signalled(9)), "from outside"},
      {Cause::kKilledForMemory, Box({}, "process_ended", Signalled(9, 1)), "by the kernel"},
      {Cause::kStopped, Box({}, "heartbeat", {{"state", "T (stopped)"}}), "SIGSTOP"},
      {Cause::kNoContact, Box({}, "heartbeat", {{"state", "D (disk sleep)"}}), "D (disk sleep)"},
      {Cause::kHang,
       Box({kStuck,
            "at the fault: rank=0 phase=denoise step=1/4 collectives=8 in=all_to_all image=3",
            "at the fault: rank=1 phase=denoise step=1/4 collectives=7 in=- image=3"}),
       "Rank 1 hung in denoise, after 1 of 4 steps"},
      {Cause::kHang,
       Box({kStuck, "at the fault: rank=0 phase=text step=0/4 collectives=0 in=- image=1"}),
       "Rank 0 hung in text, while it warmed up"},
      {Cause::kHang,
       Box({"encode: begins",
            "fault: UNAVAILABLE ENGINE_FAILED: the encoding of image 0 showed no "
            "end for 8s in encode"}),
       "hung while it encoded an image"},
      {Cause::kSkippedCollective,
       Box({kStuck, "at the fault: rank=0 phase=text step=0/4 collectives=8 in=all_gather image=3",
            "at the fault: rank=1 phase=denoise step=0/4 collectives=7 in=all_to_all image=3"}),
       "Rank 1, which has begun the fewest"},
      {Cause::kSkippedCollective,
       Box({kStuck, "at the fault: rank=0 phase=decode step=4/4 collectives=8 in=grouped image=3",
            "at the fault: rank=1 phase=idle step=4/4 collectives=7 in=- image=3"}),
       "Rank 1, which has begun the fewest"},
      {Cause::kSkippedCollective,
       Box({"rank 1 failed: INTERNAL INTERNAL: sp communicator, rank 1 of 2: all_to_all #1 meets "
            "rank 0's all_gather of 8 elements with one of 4"}),
       "disagree"},
      {Cause::kOutOfMemory,
       Box({"rank 1 failed: RESOURCE_EXHAUSTED GPU_OUT_OF_MEMORY: tried to allocate"}),
       "ran out of memory"},
      {Cause::kNotANumber,
       Box({"rank 0 failed: INTERNAL NON_FINITE_OUTPUT: the pixels are not finite"}), "NaN"},
      {Cause::kException,
       Box({"rank 0 failed: INTERNAL INTERNAL: all communicator was aborted: no such tile",
            "rank 1 failed: INTERNAL INTERNAL: no such tile"}),
       "rank 1 failed: INTERNAL INTERNAL: no such tile"},
      {Cause::kCrash,
       Box({"rank 0: text", "fatal signal 11 (SIGSEGV) at address 0x0 in thread 7"},
           "process_ended", Signalled(11)),
       "SIGSEGV"},
      {Cause::kUncaughtException,
       Box({"uncaught exception std::runtime_error: oh", "fatal signal 6 (SIGABRT) in thread 7"},
           "process_ended", Signalled(6)),
       "std::runtime_error: oh"},
      {Cause::kRefused,
       Box({}, "process_ended",
           {{"end", {{"text", "exit status 2"}, {"signal", 0}, {"status", 2}}}}),
       "refused"},
      {Cause::kSickDevice,
       Box({"rank 0 failed: INTERNAL INTERNAL: CUDA error"}, "sick_device",
           {{"end", {{"text", "exit status 3"}, {"signal", 0}, {"status", 3}}}}),
       "must not be used again"},
      {Cause::kDeviceError,
       Box({"rank 0 failed: INTERNAL INTERNAL: CUDA error"}, "failed",
           {{"end", {{"text", "exit status 100"}, {"signal", 0}, {"status", 100}}}}),
       "A device failed"},
      {Cause::kUnknown, json::object(), "Nothing in the box says why"},
  };
}

TEST(DiagnosisTest, NamesEveryCause) {
  for (const Case& one : Cases()) {
    const Diagnosis found = Diagnose(one.box);
    EXPECT_STREQ(Name(found.cause), Name(one.cause)) << one.box;
    EXPECT_THAT(found.sentence, HasSubstr(one.says));
    EXPECT_NE(found.advice, "");
  }
}

TEST(DiagnosisTest, ALogThatTellsOfAFaultToOrderNamesNothing) {
  json box = Box({});
  box["process"]["stderr"] = {R"({"msg":"fault injected","order":"nan step 1"})"};
  box["process"]["end"]["status"] = 1;
  EXPECT_EQ(Diagnose(box).cause, Cause::kUnknown);
}

TEST(DiagnosisTest, StandsBoxesOfAnyShape) {
  for (const char* text :
       {R"({"recorder": 7})", R"({"recorder": {"events": [1, null, ""], "kept": {}}})",
        R"({"process": {"end": {"signal": "nine"}}, "loss": []})"}) {
    EXPECT_EQ(Diagnose(json::parse(text)).cause, Cause::kUnknown) << text;
  }
}

TEST(DiagnosisTest, ReadsTheRecorderThatAWorkerWroteByItself) {
  const ScratchFolder folder;
  const std::string path = folder / "recorder";
  std::ofstream(path) << "- rank=0 phase=denoise step=1/4 collectives=0 in=- image=2   \n"
                      << std::string(256, '\0')
                      << "00000002 1.5 fatal signal 11 (SIGSEGV) at address 0x0\n"
                      << "00000001 1.0 rank 0: denoise   \nstack: rank 0\n";
  const auto box = ReadBox(path);
  ASSERT_TRUE(box.ok()) << box.status();
  const Diagnosis found = Diagnose(*box);
  EXPECT_EQ(found.cause, Cause::kCrash);
  EXPECT_THAT(found.sentence, HasSubstr("in denoise, after 1 of 4 steps"));
}

TEST(DiagnosisTest, RefusesWhatIsNoBox) {
  const ScratchFolder folder;
  const std::string path = folder / "file";
  std::ofstream(path) << "{\"a\": ";
  EXPECT_TRUE(absl::IsInvalidArgument(ReadBox(path).status()));
  EXPECT_TRUE(absl::IsNotFound(ReadBox(folder / "none").status()));
}

}  // namespace
}  // namespace patchflow
