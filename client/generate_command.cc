// patchflow generate
#include <CLI/App.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "client/caption_plan.h"
#include "client/caption_run.h"
#include "client/commands.h"
#include "client/connection.h"
#include "client/display_options.h"
#include "client/generate_options.h"
#include "client/receive.h"

namespace patchflow {
namespace {

constexpr char kOutOfOne[] = "image-{seed}.{ext}";
constexpr char kOutOfMany[] = "image-{prompt}-{seed}.{ext}";

struct Options {
  ConnectionOptions connection;
  GenerateOptions generate;
  DisplayOptions display;
  CaptionOptions captions;
  std::string previews;
  int preview_every = 1;
};

// All that can be wrong before anything is sent.
struct Plan {
  std::vector<std::string> prompts;
  OutputPattern out;
};

absl::StatusOr<Plan> MakePlan(Options& options) {
  if (options.display.out.empty())
    options.display.out = options.generate.file.empty() ? kOutOfOne : kOutOfMany;
  auto out = OutputPattern::Parse(options.display.out);
  if (!out.ok()) return out.status();
  auto prompts = ReadPrompts(options.generate);
  if (!prompts.ok()) return prompts.status();
  const auto num_prompts = static_cast<int>(prompts->size());
  if (num_prompts > 1 && !options.generate.request_id.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--request-id: can't name ", num_prompts, " requests, one for each prompt"));
  }
  if (out->is_stdout() && options.display.json) {
    return absl::InvalidArgumentError(
        "--out: images and --json can't both go to the standard output");
  }
  if (absl::Status status = out->CheckDistinct(num_prompts, options.generate.count.value_or(1));
      !status.ok()) {
    return status;
  }
  return Plan{*std::move(prompts), *std::move(out)};
}

void AddPreviewOptions(CLI::App& command, Options& options) {
  const std::string group = "Output";
  CLI::Option* previews =
      command
          .add_option("--previews", options.previews,
                      "Folder for the newest preview of each image: preview-PROMPT-IMAGE.png")
          ->type_name("DIR")
          ->group(group);
  command
      .add_option("--preview-every", options.preview_every, "A preview after every so many steps")
      ->check(CLI::PositiveNumber)
      ->needs(previews)
      ->capture_default_str()
      ->group(group);
}

void ShowCost(const GenerationResult& result, Console& console) {
  if (!result.status.ok() || !result.accepted) return;
  console.out << "valid: " << result.accepted->cost().steps() << " steps, "
              << result.accepted->cost().pixels() << " pixels\n"
              << MessageJson(result.accepted->effective()).dump(2) << std::endl;
}

int DrawCaptions(const Options& options, Session& session) {
  if (!options.previews.empty()) {
    return Fail(session.console, kExitUsage, "--previews: not with a file of captions");
  }
  const auto plan = PlanCaptions(options.captions, options.generate, options.display.out);
  if (!plan.ok()) return Fail(session.console, kExitUsage, std::string(plan.status().message()));
  const auto connection = Connection::Open(options.connection);
  if (!connection.ok())
    return Fail(session.console, kExitUsage, std::string(connection.status().message()));
  return RunCaptions(
      {*plan, options.generate, options.display, *connection, options.captions.in_flight},
      session.console, session.interrupt);
}

// Goes on after a prompt that the server refuses; the first failure is the exit status.
int Run(Options options, Session& session) {
  auto plan = MakePlan(options);
  if (!options.previews.empty() && !std::filesystem::is_directory(options.previews)) {
    return Fail(session.console, kExitUsage,
                absl::StrCat("--previews: ", options.previews, " is not a folder"));
  }
  if (!plan.ok()) return Fail(session.console, kExitUsage, std::string(plan.status().message()));
  auto connection = Connection::Open(options.connection);
  if (!connection.ok())
    return Fail(session.console, kExitUsage, std::string(connection.status().message()));

  const std::unique_ptr<ProgressView> view = MakeView(options.display, session.console);
  const Receiving receiving{*connection, session.console, session.interrupt, *view,
                            !options.display.json};
  int exit_code = kExitOk;
  for (size_t i = 0; i < plan->prompts.size() && !session.interrupt.triggered(); ++i) {
    auto request = BuildRequest(options.generate, plan->prompts[i], connection->timeout());
    if (!request.ok())
      return Fail(session.console, kExitUsage, std::string(request.status().message()));
    if (!options.previews.empty()) {
      request->mutable_stream()->set_preview_every_steps(options.preview_every);
    }
    const StreamContent content =
        options.generate.validate_only ? StreamContent::kNothing : StreamContent::kImages;
    GenerationResult result = Receive(receiving, OpenGenerate(*connection, *request),
                                      {.request_id = request->request_id(),
                                       .content = content,
                                       .out = plan->out,
                                       .prompt_index = static_cast<int>(i),
                                       .previews = options.previews});
    result.prompt = plan->prompts[i];
    if (options.generate.validate_only && !options.display.json) ShowCost(result, session.console);
    const int code = Show(options.display, result, session.console);
    if (code != kExitOk && options.generate.on_disconnect == v1::DISCONNECT_POLICY_DETACH &&
        result.accepted) {
      session.console.err << "it may go on without this program: patchflow fetch "
                          << result.request_id << std::endl;
    }
    if (exit_code == kExitOk) exit_code = code;
    if (code != kExitOk && code != kExitRefused) break;
  }
  return exit_code;
}

}  // namespace

void AddGenerateCommand(CLI::App& app, Session& session) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("generate", "Draw images and write them to files");
  AddGenerateOptions(*command, options->generate);
  AddCaptionOptions(*command, options->captions);
  AddDisplayOptions(*command, options->display, "");
  AddPreviewOptions(*command, *options);
  AddConnectionOptions(*command, options->connection, "10m");
  command->callback([options, &session] {
    session.run = [options, &session] {
      return options->captions.file.empty() ? Run(*options, session)
                                            : DrawCaptions(*options, session);
    };
  });
}

}  // namespace patchflow
