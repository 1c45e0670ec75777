// patchflow cancel
#include <CLI/App.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "client/commands.h"
#include "client/generation_result.h"
#include "client/shared_options.h"
#include "client/unary_call.h"

namespace patchflow {
namespace {

struct Options {
  ConnectionOptions connection;
  std::string request_id;
  bool json = false;
};

std::string Text(const std::string& request_id, v1::State state) {
  switch (state) {
    case v1::STATE_UNSPECIFIED:
      return request_id + " is not known; it will be refused if it comes in the next 300 s";
    case v1::STATE_SUCCEEDED:
      return request_id + " had succeeded before";
    case v1::STATE_FAILED:
      return request_id + " had failed before";
    default:
      return request_id + " is cancelled";
  }
}

int Run(const Options& options, Session& session) {
  v1::CancelGenerationRequest request;
  request.set_request_id(options.request_id);
  return RunCall(options.connection, session, &v1::ImageGenerationService::Stub::CancelGeneration,
                 request, [&](const v1::CancelGenerationResponse& response) {
                   session.console.out
                       << (options.json ? JsonLine(MessageJson(response))
                                        : Text(options.request_id, response.state()))
                       << std::endl;
                   return kExitOk;
                 });
}

}  // namespace

void AddCancelCommand(CLI::App& app, Session& session) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("cancel", "Stop a generation");
  AddRequestIdOption(*command, options->request_id);
  command->add_flag("--json", options->json, "Everything the server tells, as one JSON object");
  AddConnectionOptions(*command, options->connection, "10s");
  command->callback([options, &session] {
    session.run = [options, &session] { return Run(*options, session); };
  });
}

}  // namespace patchflow
