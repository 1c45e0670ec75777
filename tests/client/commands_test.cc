#include "client/commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/client/fake_service.h"
#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

struct Outcome {
  int exit_code;
  std::string out;
  std::string err;
};

Outcome RunProgram(std::vector<std::string> arguments) {
  std::ostringstream out;
  std::ostringstream err;
  Console console{out, err};
  Interrupt interrupt;
  std::vector<const char*> argv = {"patchflow"};
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  const int exit_code = RunClient(static_cast<int>(argv.size()), argv.data(), console, interrupt);
  return {exit_code, out.str(), err.str()};
}

class CommandsTest : public testing::Test {
 protected:
  // With the server's address, no retries, and the files in the test's folder.
  Outcome Generate(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "generate");
    arguments.insert(arguments.end(),
                     {"--server", server_.address(), "--retries", "0", "--timeout", "20s"});
    if (std::find(arguments.begin(), arguments.end(), "--out") == arguments.end()) {
      arguments.insert(arguments.end(), {"--out", folder_ / "{prompt}-{index}.{ext}"});
    }
    return RunProgram(arguments);
  }
  Outcome Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(),
                     {"--server", server_.address(), "--retries", "0", "--timeout", "20s"});
    return RunProgram(arguments);
  }

  ScratchFolder folder_;
  FakeService service_;
  FakeServer server_{service_};
};

TEST_F(CommandsTest, HelpTellsTheExitStatuses) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"--help"},
                                             {"generate", "--help"},
                                             {"models", "--help"},
                                             {"status", "--help"},
                                             {"cancel", "--help"},
                                             {"fetch", "--help"}}) {
    const Outcome outcome = RunProgram(arguments);
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_THAT(outcome.out, HasSubstr(ExitCodeHelp())) << arguments[0];
  }
  EXPECT_THAT(RunProgram({"--version"}).out, StartsWith("patchflow " PATCHFLOW_VERSION));
}

TEST_F(CommandsTest, WrongUsageSendsNothing) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{},
                                             {"draw"},
                                             {"generate"},
                                             {"generate", "a", "--steps", "x"},
                                             {"generate", "a", "--previews", "/nowhere"},
                                             {"generate", "a", "--preview-every", "2"},
                                             {"generate", "a", "--nonsense"},
                                             {"generate", "a", "--size", "16"},
                                             {"generate", "a", "--out", "{sed}"},
                                             {"generate", "a", "--count", "2", "--out", "a.png"},
                                             {"generate", "a", "--out", "-", "--json"},
                                             {"generate", "a", "--timeout", "0"},
                                             {"generate", "--file", "/nowhere/x"},
                                             {"generate", "a", "--tls-ca", "/nowhere/x"},
                                             {"generate", "a", "--retries", "-1"},
                                             {"status"},
                                             {"cancel"},
                                             {"fetch"},
                                             {"fetch", "r", "--out", ""},
                                             {"models", "--timeout", "x"}}) {
    std::vector<std::string> all = arguments;
    if (!all.empty() && all[0] != "draw") all.insert(all.end(), {"--server", server_.address()});
    const Outcome outcome = RunProgram(all);
    EXPECT_EQ(outcome.exit_code, 2) << testing::PrintToString(arguments);
    EXPECT_NE(outcome.err, "");
  }
  EXPECT_TRUE(service_.requests().empty());
}

TEST_F(CommandsTest, GenerateWritesFilesAndTellsThem) {
  const Outcome outcome = Generate({"a fish", "--seed", "42", "-n", "2"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(ReadFile(folder_ / "0000-0.png"), ImageBytes(42));
  EXPECT_EQ(ReadFile(folder_ / "0000-1.png"), ImageBytes(43));
  EXPECT_THAT(outcome.out,
              testing::ContainsRegex(
                  "0000-0.png  64x32  seed 42  [0-9.]+ s\n.*0000-1.png  64x32  seed 43  "));
  EXPECT_THAT(outcome.err, HasSubstr("accepted\nstep 1 of 2, image 1 of 2\n"));
  EXPECT_THAT(outcome.err, HasSubstr(": denoise 0.25\n"));
}

TEST_F(CommandsTest, GenerateWritesTheNewestPreviewOfEachImage) {
  service_.on_generate = [](grpc::ServerContext&, const v1::GenerateImagesRequest& request,
                            const FakeService::Write& write) {
    Script script = WholeGeneration(request);
    v1::GenerateImagesResponse message = script.messages[1];
    for (const auto& [image, data] :
         {std::pair{0, "older"}, std::pair{0, "newest"}, std::pair{1, "other"}}) {
      message.mutable_preview()->set_image_index(image);
      message.mutable_preview()->set_format(v1::IMAGE_FORMAT_PNG);
      message.mutable_preview()->set_data(data);
      script.messages.insert(script.messages.end() - 1, message);
    }
    for (size_t i = 0; i < script.messages.size(); ++i) {
      script.messages[i].set_sequence(i + 1);
      write(script.messages[i]);
    }
    return grpc::Status::OK;
  };
  const Outcome outcome =
      Generate({"a fish", "-n", "2", "--previews", folder_ / "", "--preview-every", "4"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(ReadFile(folder_ / "preview-0-0.png"), "newest");
  EXPECT_EQ(ReadFile(folder_ / "preview-0-1.png"), "other");
  EXPECT_EQ(service_.requests()[0].stream().preview_every_steps(), 4);
}

TEST_F(CommandsTest, GenerateAsksForNoPreviewsUnlessToldTo) {
  EXPECT_EQ(Generate({"a fish"}).exit_code, 0);
  EXPECT_EQ(service_.requests()[0].stream().preview_every_steps(), 0);
}

TEST_F(CommandsTest, GenerateTellsProgramsInJson) {
  const Outcome outcome = Generate({"a fish", "--seed", "42", "--json", "--quiet"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.err, "");
  const nlohmann::json json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["prompt"], "a fish");
  EXPECT_EQ(json["images"][0]["path"], folder_ / "0000-0.png");
  EXPECT_EQ(json["images"][0]["seed"], 42);
  EXPECT_EQ(json["request_id"], service_.requests()[0].request_id());
}

TEST_F(CommandsTest, GenerateWritesToTheStandardOutput) {
  const Outcome outcome = Generate({"a fish", "--seed", "42", "--out", "-", "--quiet"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.out, ImageBytes(42));
  EXPECT_THAT(outcome.err, StartsWith("-  64x32  seed 42"));
}

TEST_F(CommandsTest, GenerateDrawsEachLineOfAFile) {
  std::ofstream(folder_ / "prompts") << "a fish\ntwo birds\n";
  const Outcome outcome = Generate({"--file", folder_ / "prompts", "--seed", "7", "--json"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  ASSERT_EQ(service_.requests().size(), 2U);
  EXPECT_EQ(service_.requests()[1].prompt().text(), "two birds");
  EXPECT_NE(service_.requests()[0].request_id(), service_.requests()[1].request_id());
  EXPECT_EQ(ReadFile(folder_ / "0000-0.png"), ImageBytes(7));
  EXPECT_EQ(ReadFile(folder_ / "0001-0.png"), ImageBytes(7));
  EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 2);
}

TEST_F(CommandsTest, ARequestIdNamesOnePrompt) {
  std::ofstream(folder_ / "prompts") << "a fish\ntwo birds\n";
  const Outcome outcome = Generate({"--file", folder_ / "prompts", "--request-id", "r"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(outcome.err, "patchflow: --request-id: can't name 2 requests, one for each prompt\n");
}

TEST_F(CommandsTest, ARefusedPromptDoesNotStopTheNext) {
  std::ofstream(folder_ / "prompts") << "refused\ntwo birds\n";
  service_.on_generate = [](grpc::ServerContext&, const v1::GenerateImagesRequest& request,
                            const FakeService::Write& write) {
    if (request.prompt().text() == "refused")
      return ErrorStatus(grpc::INVALID_ARGUMENT, "INVALID_REQUEST", "no");
    for (const auto& message : WholeGeneration(request).messages) write(message);
    return grpc::Status::OK;
  };
  const Outcome outcome = Generate({"--file", folder_ / "prompts", "--seed", "7"});
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_EQ(ReadFile(folder_ / "0001-0.png"), ImageBytes(7));
}

TEST_F(CommandsTest, OtherFailuresStopTheFile) {
  std::ofstream(folder_ / "prompts") << "a fish\ntwo birds\n";
  service_.FailWith({grpc::INTERNAL, "broken"});
  EXPECT_EQ(Generate({"--file", folder_ / "prompts"}).exit_code, 1);
  EXPECT_EQ(service_.requests().size(), 1U);
}

TEST_F(CommandsTest, EachOutcomeHasItsExitStatus) {
  const std::vector<std::pair<grpc::StatusCode, int>> codes = {
      {grpc::INVALID_ARGUMENT, 3},  {grpc::NOT_FOUND, 3},   {grpc::ALREADY_EXISTS, 3},
      {grpc::UNAUTHENTICATED, 3},   {grpc::UNAVAILABLE, 4}, {grpc::RESOURCE_EXHAUSTED, 4},
      {grpc::DEADLINE_EXCEEDED, 5}, {grpc::CANCELLED, 6},   {grpc::INTERNAL, 1},
      {grpc::UNIMPLEMENTED, 1}};
  for (const auto& [code, exit_code] : codes) {
    service_.FailWith(ErrorStatus(code, "REASON", "words"));
    const Outcome outcome = Generate({"a fish"});
    EXPECT_EQ(outcome.exit_code, exit_code) << code;
    EXPECT_THAT(outcome.err, testing::MatchesRegex("patchflow: [A-Z_]+ \\(REASON\\): words\n"));
    EXPECT_EQ(outcome.out, "");
  }
  EXPECT_EQ(folder_.num_files(), 0U);
}

TEST_F(CommandsTest, ErrorsNameEveryField) {
  service_.FailWith(ErrorStatus(grpc::INVALID_ARGUMENT, "INVALID_REQUEST", "2 fields are wrong", -1,
                                {{"image.width", "1000 is not a multiple of 16"},
                                 {"sampling.steps", "0 is not in 1 .. 200"}}));
  EXPECT_EQ(Generate({"a fish", "--width", "1000", "--steps", "0"}).err,
            "patchflow: INVALID_ARGUMENT (INVALID_REQUEST): 2 fields are wrong\n"
            "  image.width: 1000 is not a multiple of 16\n"
            "  sampling.steps: 0 is not in 1 .. 200\n");
  const nlohmann::json json = nlohmann::json::parse(Generate({"a fish", "--json"}).out);
  EXPECT_EQ(json["violations"].size(), 2U);
}

TEST_F(CommandsTest, ABrokenStreamIsAFailure) {
  service_.on_generate = [](grpc::ServerContext&, const v1::GenerateImagesRequest& request,
                            const FakeService::Write& write) {
    Script script = WholeGeneration(request);
    script.messages.pop_back();
    for (const auto& message : script.messages) write(message);
    return grpc::Status::OK;
  };
  const Outcome outcome = Generate({"a fish"});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err,
              HasSubstr("DATA_LOSS: the server's stream is broken: it ended without Completed"));
}

TEST_F(CommandsTest, NoServerIsUnavailable) {
  const Outcome outcome =
      RunProgram({"generate", "a fish", "--server", "127.0.0.1:1", "--retries", "0"});
  EXPECT_EQ(outcome.exit_code, 4);
  EXPECT_THAT(outcome.err, StartsWith("patchflow: UNAVAILABLE: "));
}

TEST_F(CommandsTest, ADetachedGenerationTellsHowToFetchIt) {
  service_.on_generate = [](grpc::ServerContext&, const v1::GenerateImagesRequest& request,
                            const FakeService::Write& write) {
    write(WholeGeneration(request).messages[0]);
    return grpc::Status(grpc::UNAVAILABLE, "connection lost");
  };
  const std::vector<std::string> arguments = {"a fish", "--request-id", "r-9"};
  EXPECT_THAT(Generate({"a fish", "--request-id", "r-9", "--on-disconnect", "detach"}).err,
              HasSubstr("patchflow fetch r-9\n"));
  EXPECT_THAT(Generate({"a fish", "--request-id", "r-9"}).err, Not(HasSubstr("patchflow fetch")));
}

TEST_F(CommandsTest, ValidateOnlyTellsCostAndParameters) {
  const Outcome outcome = Generate({"a fish", "--validate-only", "-n", "2"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_TRUE(service_.requests()[0].validate_only());
  EXPECT_THAT(outcome.out, StartsWith("valid: 40 steps, 4096 pixels\n{"));
  EXPECT_EQ(folder_.num_files(), 0U);
}

TEST_F(CommandsTest, FetchWritesTheImages) {
  const Outcome outcome = Run({"fetch", "r-1", "--out", folder_ / "{request_id}-{seed}.{ext}"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(ReadFile(folder_ / "r-1-7.png"), ImageBytes(7));
}

TEST_F(CommandsTest, FetchOfAnUnknownIdIsRefused) {
  service_.FailWith(ErrorStatus(grpc::NOT_FOUND, "GENERATION_NOT_FOUND", "no generation r-1"));
  EXPECT_EQ(Run({"fetch", "r-1"}).exit_code, 3);
}

TEST_F(CommandsTest, ModelsAreATable) {
  service_.on_list = [](grpc::ServerContext&, v1::ListModelsResponse& response) {
    v1::Model& model = *response.add_models();
    model.set_name("shapes-256");
    model.set_ready(true);
    model.mutable_defaults()->set_width(256);
    model.mutable_defaults()->set_height(128);
    model.mutable_defaults()->set_steps(20);
    model.mutable_defaults()->set_guidance_scale(4.5);
    model.mutable_limits()->set_min_size(16);
    model.mutable_limits()->set_max_size(512);
    model.add_schedulers("ddim");
    model.add_schedulers("euler");
    model.set_device("cpu");
    model.set_dtype("float32");
    model.add_layouts("serial");
    response.add_models()->set_name("b");
    return grpc::Status::OK;
  };
  const Outcome outcome = Run({"models"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(
      outcome.out,
      StartsWith(
          "NAME        READY  SIZE     SIDES   STEPS  GUIDANCE  SCHEDULERS  DEVICE       LAYOUT\n"
          "shapes-256  yes    256x128  16-512  20     4.5       ddim,euler  cpu float32  serial\n"
          "b           no     0x0 "));
  const nlohmann::json json = nlohmann::json::parse(Run({"models", "--json"}).out);
  EXPECT_EQ(json[0]["limits"]["max_size"], 512);
  EXPECT_EQ(json[1]["ready"], false);
}

TEST_F(CommandsTest, StatusTellsStateAndError) {
  service_.on_get = [](const std::string& request_id, v1::GetGenerationResponse& response) {
    if (request_id == "unknown")
      return ErrorStatus(grpc::NOT_FOUND, "GENERATION_NOT_FOUND", "none");
    response.set_request_id(request_id);
    response.mutable_effective()->set_count(2);
    response.mutable_effective()->set_width(64);
    response.mutable_effective()->set_height(32);
    response.mutable_effective()->set_steps(20);
    response.mutable_effective()->set_seed(5);
    response.mutable_effective()->set_model("fake");
    response.mutable_create_time()->set_seconds(1'000'000'000);
    response.set_state(request_id == "live" ? v1::STATE_RUNNING : v1::STATE_FAILED);
    response.mutable_progress()->set_state(v1::STATE_RUNNING);
    response.mutable_progress()->set_step(9);
    response.mutable_progress()->set_total_steps(20);
    if (request_id == "failed") {
      response.set_error_code(grpc::INTERNAL);
      response.set_error_reason("NON_FINITE_OUTPUT");
      response.set_error_message("the latents are not finite");
      response.mutable_end_time()->set_seconds(1'000'000'002);
    }
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"status", "live"}).out,
            "live  RUNNING\n  step 9 of 20, image 1 of 2\n  2 of 64x32 by fake, 20 steps, seed 5\n"
            "  begun 2001-09-09T01:46:40Z\n");
  EXPECT_EQ(Run({"status", "failed"}).out,
            "failed  FAILED\n  2 of 64x32 by fake, 20 steps, seed 5\n"
            "  begun 2001-09-09T01:46:40Z, ended 2001-09-09T01:46:42Z\n"
            "  INTERNAL (NON_FINITE_OUTPUT): the latents are not finite\n");
  EXPECT_EQ(nlohmann::json::parse(Run({"status", "failed", "--json"}).out)["error_reason"],
            "NON_FINITE_OUTPUT");
  EXPECT_EQ(Run({"status", "unknown"}).exit_code, 3);
}

TEST_F(CommandsTest, CancelTellsWhatWasCancelled) {
  service_.on_cancel = [](const std::string& request_id, v1::CancelGenerationResponse& response) {
    response.set_state(request_id == "live"   ? v1::STATE_CANCELLED
                       : request_id == "done" ? v1::STATE_SUCCEEDED
                                              : v1::STATE_UNSPECIFIED);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"cancel", "live"}).out, "live is cancelled\n");
  EXPECT_EQ(Run({"cancel", "done"}).out, "done had succeeded before\n");
  EXPECT_THAT(Run({"cancel", "new"}).out, StartsWith("new is not known"));
  EXPECT_EQ(Run({"cancel", "live"}).exit_code, 0);
}

TEST_F(CommandsTest, UnaryCallsTryAgain) {
  int calls = 0;
  service_.on_get = [&](const std::string&, v1::GetGenerationResponse&) {
    return ++calls < 3 ? ErrorStatus(grpc::UNAVAILABLE, "STARTING", "", 0.001) : grpc::Status::OK;
  };
  const Outcome outcome =
      RunProgram({"status", "r", "--server", server_.address(), "--timeout", "20s"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(calls, 3);
}

}  // namespace
}  // namespace patchflow
