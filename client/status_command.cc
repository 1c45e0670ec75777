// patchflow status
#include <google/protobuf/util/time_util.h>

#include <CLI/App.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "client/commands.h"
#include "client/generation_result.h"
#include "client/progress_view.h"
#include "client/shared_options.h"
#include "client/unary_call.h"

namespace patchflow {
namespace {

using google::protobuf::util::TimeUtil;

struct Options {
  ConnectionOptions connection;
  std::string request_id;
  bool json = false;
};

std::string Text(const v1::GetGenerationResponse& response) {
  std::string text = absl::StrCat(response.request_id(), "  ",
                                  v1::State_Name(response.state()).substr(sizeof "STATE_" - 1));
  const bool live = response.state() == v1::STATE_QUEUED || response.state() == v1::STATE_RUNNING;
  if (live)
    absl::StrAppend(&text, "\n  ", ProgressText(response.progress(), response.effective().count()));
  const v1::EffectiveParams& effective = response.effective();
  absl::StrAppend(&text, "\n  ", effective.count(), " of ", effective.width(), "x",
                  effective.height(), " by ", effective.model(), ", ", effective.steps(),
                  " steps, seed ", effective.seed());
  absl::StrAppend(&text, "\n  begun ", TimeUtil::ToString(response.create_time()));
  if (response.has_end_time())
    absl::StrAppend(&text, ", ended ", TimeUtil::ToString(response.end_time()));
  if (response.error_code() != 0) {
    absl::StrAppend(&text, "\n  ",
                    absl::StatusCodeToString(static_cast<absl::StatusCode>(response.error_code())),
                    " (", response.error_reason(), "): ", response.error_message());
  }
  return Printable(text);
}

int Run(const Options& options, Session& session) {
  v1::GetGenerationRequest request;
  request.set_request_id(options.request_id);
  return RunCall(options.connection, session, &v1::ImageGenerationService::Stub::GetGeneration,
                 request, [&](const v1::GetGenerationResponse& response) {
                   session.console.out
                       << (options.json ? JsonLine(MessageJson(response)) : Text(response))
                       << std::endl;
                   return kExitOk;
                 });
}

}  // namespace

void AddStatusCommand(CLI::App& app, Session& session) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("status", "Tell where a generation stands");
  AddRequestIdOption(*command, options->request_id);
  command->add_flag("--json", options->json, "Everything the server tells, as one JSON object");
  AddConnectionOptions(*command, options->connection, "10s");
  command->callback([options, &session] {
    session.run = [options, &session] { return Run(*options, session); };
  });
}

}  // namespace patchflow
