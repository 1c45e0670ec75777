// patchflow fetch
#include <CLI/App.hpp>
#include <memory>

#include "client/commands.h"
#include "client/connection.h"
#include "client/display_options.h"
#include "client/receive.h"
#include "client/shared_options.h"

namespace patchflow {
namespace {

struct Options {
  ConnectionOptions connection;
  DisplayOptions display;
  std::string request_id;
};

int Run(const Options& options, Session& session) {
  auto out = OutputPattern::Parse(options.display.out);
  if (!out.ok()) return Fail(session.console, kExitUsage, std::string(out.status().message()));
  if (out->is_stdout() && options.display.json) {
    return Fail(session.console, kExitUsage,
                "--out: images and --json can't both go to the standard output");
  }
  auto connection = Connection::Open(options.connection);
  if (!connection.ok())
    return Fail(session.console, kExitUsage, std::string(connection.status().message()));

  v1::FetchGenerationRequest request;
  request.set_request_id(options.request_id);
  const std::unique_ptr<ProgressView> view = MakeView(options.display, session.console);
  const Receiving receiving{*connection, session.console, session.interrupt, *view,
                            !options.display.json};
  return Show(options.display,
              Receive(receiving, OpenFetch(*connection, request),
                      {.request_id = options.request_id,
                       .content = StreamContent::kImages,
                       .out = *out,
                       .prompt_index = 0}),
              session.console);
}

}  // namespace

void AddFetchCommand(CLI::App& app, Session& session) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("fetch", "Get the images of a generation, live or finished");
  AddRequestIdOption(*command, options->request_id);
  AddDisplayOptions(*command, options->display, "image-{seed}.{ext}");
  AddConnectionOptions(*command, options->connection, "10m");
  command->callback([options, &session] {
    session.run = [options, &session] { return Run(*options, session); };
  });
}

}  // namespace patchflow
