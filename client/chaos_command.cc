// patchflow chaos
#include <unistd.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <ostream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/chaos_run.h"
#include "client/commands.h"

namespace patchflow {
namespace {

constexpr absl::Duration kStart = absl::Minutes(20);

struct Options {
  std::string config;
  std::string program;
  std::vector<std::string> kinds = kFaultKinds;
  std::vector<std::string> places = kFaultPlaces;
  ChaosOptions chaos;
};

// The server's program, beside this one unless it is named.
std::string Program(const Options& options) {
  if (!options.program.empty()) return options.program;
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return (self.parent_path() / "patchflow-server").string();
}

bool Contains(const std::vector<std::string>& list, const std::string& word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

int Run(const Options& options, Session& session) {
  auto server = ChaosServer::Start(Program(options), options.config, kStart);
  if (!server.ok())
    return Fail(session.console, kExitUsage, std::string(server.status().message()));
  ConnectionOptions address;
  address.server = (*server)->address();
  address.timeout = absl::StrCat(absl::ToDoubleSeconds(options.chaos.timeout));
  auto connection = Connection::Open(address);
  if (!connection.ok())
    return Fail(session.console, kExitUsage, std::string(connection.status().message()));
  session.console.out << ChaosHead() << std::flush;
  std::vector<ChaosOutcome> outcomes;
  for (const std::string& kind : kFaultKinds) {
    for (const std::string& place : kFaultPlaces) {
      if (!Contains(options.kinds, kind) || !Contains(options.places, place) ||
          !FaultIsPossible(kind, place))
        continue;
      if (session.interrupt.triggered())
        return Fail(session.console, kExitCancelled, "interrupted");
      auto outcome = RunFault(**server, *connection, session.interrupt, options.chaos, kind, place);
      if (!outcome.ok())
        return Fail(session.console, kExitOther,
                    absl::StrCat(kind, " in ", place, ": ", outcome.status().message()));
      session.console.out << ChaosRow(*outcome) << std::flush;
      outcomes.push_back(*std::move(outcome));
    }
  }
  session.console.out << ChaosMatrix(outcomes) << ChaosSum(outcomes) << std::flush;
  return std::all_of(outcomes.begin(), outcomes.end(),
                     [](const ChaosOutcome& outcome) { return outcome.ok(); })
             ? kExitOk
             : kExitOther;
}

}  // namespace

void AddChaosCommand(CLI::App& app, Session& session) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "chaos", "Start a server whose configuration allows it, break its workers, print a table");
  command
      ->add_option("--config", options->config,
                   "Configuration of the server, with 'chaos: true' (deploy/chaos.yaml is one)")
      ->type_name("FILE")
      ->required();
  command->add_option("--server-program", options->program,
                      "patchflow-server; default: beside this program");
  command->add_option("--kinds", options->kinds, "Faults")
      ->delimiter(',')
      ->check(CLI::IsMember(kFaultKinds));
  command->add_option("--places", options->places, "Where")
      ->delimiter(',')
      ->check(CLI::IsMember(kFaultPlaces));
  command->add_option("--rank", options->chaos.rank, "Rank that suffers")
      ->check(CLI::Range(0, 63))
      ->capture_default_str();
  command->add_option("--steps", options->chaos.steps, "Steps of an image")
      ->check(CLI::Range(2, 1000))
      ->capture_default_str();
  command->callback([options, &session] {
    session.run = [options, &session] { return Run(*options, session); };
  });
}

}  // namespace patchflow
