#include "client/commands.h"

#include <CLI/CLI.hpp>
#include <ostream>
#include <sstream>

#include "client/server_error.h"

namespace patchflow {

int Fail(Console& console, ExitCode code, const std::string& text) {
  console.err << "patchflow: " << Printable(text) << std::endl;
  return code;
}

int Fail(Console& console, const absl::Status& status) {
  return Fail(console, ExitCodeOf(status), RenderError(status));
}

int RunClient(int argc, const char* const* argv, Console& console, Interrupt& interrupt) {
  CLI::App app("Client of Patchflow, the text-to-image server.", "patchflow");
  app.set_version_flag("--version", "patchflow " PATCHFLOW_VERSION);
  app.require_subcommand(1);
  app.footer(ExitCodeHelp());
  Session session{console, interrupt, {}};
  AddGenerateCommand(app, session);
  AddModelsCommand(app, session);
  AddStatusCommand(app, session);
  AddFetchCommand(app, session);
  AddCancelCommand(app, session);
  AddTraceCommand(app, session);
  AddUsageCommand(app, session);
  AddLoadCommand(app, session);
  AddReplayCommand(app, session);
  AddDiagnoseCommand(app, session);
  AddChaosCommand(app, session);
  AddAdminCommand(app, session);
  for (CLI::App* command : app.get_subcommands({})) command->footer(ExitCodeHelp());
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error, console.out, console.err) == 0 ? kExitOk : kExitUsage;
  }
  return session.run();
}

}  // namespace patchflow
