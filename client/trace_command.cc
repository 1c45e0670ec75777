// patchflow trace
#include <CLI/App.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "client/chrome_trace.h"
#include "client/commands.h"
#include "client/output_path.h"
#include "client/shared_options.h"
#include "client/unary_call.h"

namespace patchflow {
namespace {

struct Options {
  ConnectionOptions connection;
  std::string request_id;
  std::string out = "-";
};

int Write(const v1::GetGenerationTraceResponse& trace, const std::string& out, Session& session) {
  const std::string text = absl::StrCat(
      ChromeTrace(trace).dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace),
      "\n");
  if (out == "-") {
    session.console.out << text << std::flush;
    return kExitOk;
  }
  const absl::Status written = WriteFile(out, text);
  return written.ok() ? kExitOk : Fail(session.console, written);
}

int Run(const Options& options, Session& session) {
  v1::GetGenerationTraceRequest request;
  request.set_request_id(options.request_id);
  return RunCall(options.connection, session, &v1::ImageGenerationService::Stub::GetGenerationTrace,
                 request, [&](const v1::GetGenerationTraceResponse& trace) {
                   return Write(trace, options.out, session);
                 });
}

}  // namespace

void AddTraceCommand(CLI::App& app, Session& session) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "trace", "Show where a generation's time went, for ui.perfetto.dev or chrome://tracing");
  AddRequestIdOption(*command, options->request_id);
  command->add_option("--out,-o", options->out, "Write the JSON here; - is the standard output")
      ->type_name("FILE")
      ->capture_default_str();
  AddConnectionOptions(*command, options->connection, "10s");
  command->callback([options, &session] {
    session.run = [options, &session] { return Run(*options, session); };
  });
}

}  // namespace patchflow
