// patchflow trace
#include <CLI/App.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "client/chrome_trace.h"
#include "client/commands.h"
#include "client/output_path.h"
#include "client/unary_call.h"

namespace patchflow {
namespace {

struct Options {
  ConnectionOptions connection;
  std::string request_id;
  std::string out = "-";
};

int Run(const Options& options, Session& session) {
  auto connection = Connection::Open(options.connection);
  if (!connection.ok())
    return Fail(session.console, kExitUsage, std::string(connection.status().message()));
  v1::GetGenerationTraceRequest request;
  request.set_request_id(options.request_id);
  const auto trace = Call(*connection, session.interrupt,
                          &v1::ImageGenerationService::Stub::GetGenerationTrace, request);
  if (!trace.ok()) return Fail(session.console, trace.status());
  const std::string text = absl::StrCat(
      ChromeTrace(*trace).dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace),
      "\n");
  if (options.out == "-") {
    session.console.out << text << std::flush;
    return kExitOk;
  }
  if (const absl::Status written = WriteFile(options.out, text); !written.ok())
    return Fail(session.console, written);
  return kExitOk;
}

}  // namespace

void AddTraceCommand(CLI::App& app, Session& session) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "trace", "Show where a generation's time went, for ui.perfetto.dev or chrome://tracing");
  command->add_option("request_id", options->request_id, "Name of the request")
      ->type_name("REQUEST_ID")
      ->required();
  command->add_option("--out,-o", options->out, "Write the JSON here; - is the standard output")
      ->type_name("FILE")
      ->capture_default_str();
  AddConnectionOptions(*command, options->connection, "10s");
  command->callback([options, &session] {
    session.run = [options, &session] { return Run(*options, session); };
  });
}

}  // namespace patchflow
