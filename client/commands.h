// The subcommands, one a file. Each AddX gives `app` its subcommand, which when chosen leaves in
// session.run what to do; run returns the exit status.
#pragma once

#include <CLI/App.hpp>
#include <functional>

#include "client/console.h"
#include "client/interrupt.h"

namespace patchflow {

// Of one run of the program.
struct Session {
  Console& console;
  Interrupt& interrupt;
  std::function<int()> run;
};

void AddGenerateCommand(CLI::App& app, Session& session);
void AddFetchCommand(CLI::App& app, Session& session);
void AddModelsCommand(CLI::App& app, Session& session);
void AddStatusCommand(CLI::App& app, Session& session);
void AddCancelCommand(CLI::App& app, Session& session);
void AddTraceCommand(CLI::App& app, Session& session);
void AddUsageCommand(CLI::App& app, Session& session);
void AddLoadCommand(CLI::App& app, Session& session);
void AddReplayCommand(CLI::App& app, Session& session);
void AddDiagnoseCommand(CLI::App& app, Session& session);
void AddChaosCommand(CLI::App& app, Session& session);
void AddAdminCommand(CLI::App& app, Session& session);

// The whole program: parses, runs, reports. Returns the exit status.
int RunClient(int argc, const char* const* argv, Console& console, Interrupt& interrupt);

// "patchflow: ..." on console.err; returns `code`.
int Fail(Console& console, ExitCode code, const std::string& text);
// The same for an error of the server or of a call.
int Fail(Console& console, const absl::Status& status);

}  // namespace patchflow
