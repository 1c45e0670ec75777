// patchflow load
#include <CLI/App.hpp>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/commands.h"
#include "client/generation_result.h"
#include "client/load_report.h"
#include "client/status_line.h"

namespace patchflow {
namespace {

constexpr absl::Duration kLinePeriod = absl::Seconds(5);

struct Options {
  ConnectionOptions connection;
  LoadOptions load;
};

// Progress on console.err: a line that is written over on a terminal, else one each 5 s.
class LoadView {
 public:
  LoadView(const LoadOptions& options, Console& console)
      : console_(console), quiet_(options.quiet), line_(console) {}

  void Show(const LoadProgress& progress) {
    if (quiet_) return;
    const absl::Time now = absl::Now();
    if (!console_.err_is_terminal && now - shown_at_ < kLinePeriod) return;
    shown_at_ = now;
    line_.Show(LoadProgressText(progress));
  }
  void End() { line_.Clear(); }

 private:
  Console& console_;
  const bool quiet_;
  StatusLine line_;
  absl::Time shown_at_ = absl::Now();
};

// 0 if anything succeeded; else that of the most frequent outcome. A broken stream is always told.
int ExitStatusOf(const std::vector<LoadRow>& rows, Session& session) {
  int64_t broken = 0;
  int64_t most = 0;
  bool succeeded = false;
  std::string worst;
  for (const LoadRow& row : rows) {
    broken += row.stats.broken();
    succeeded = succeeded || row.stats.succeeded() > 0;
    for (const auto& [name, outcome] : row.stats.outcomes) {
      if (outcome.total.count() <= most) continue;
      most = outcome.total.count();
      worst = name;
    }
  }
  if (broken > 0)
    return Fail(session.console, kExitOther,
                absl::StrCat(broken, " streams broke the rules of the API (DATA_LOSS)"));
  if (session.interrupt.triggered()) return kExitCancelled;
  if (succeeded || worst.empty()) return kExitOk;
  Fail(session.console, kExitOther, absl::StrCat("no request succeeded; most ended with ", worst));
  const bool unavailable = absl::StartsWith(worst, "UNAVAILABLE");
  return unavailable ? kExitUnavailable : kExitOther;
}

absl::StatusOr<std::vector<Connection>> Connect(const Options& options) {
  std::vector<Connection> connections;
  for (int i = 0; i < options.load.connections; ++i) {
    auto connection = Connection::Open(options.connection);
    if (!connection.ok()) return connection.status();
    connections.push_back(*std::move(connection));
  }
  const ConnectionOptions& way = options.connection;
  if (options.load.disconnects > 0 && (way.tls || !way.tls_ca.empty() || !way.tls_cert.empty()))
    return absl::InvalidArgumentError("--disconnects: works without TLS only");
  return connections;
}

int Run(const Options& options, Session& session) {
  Console& console = session.console;
  const auto plan = MakeLoadPlan(options.load);
  if (!plan.ok()) return Fail(console, kExitUsage, std::string(plan.status().message()));
  const auto connections = Connect(options);
  if (!connections.ok())
    return Fail(console, kExitUsage, std::string(connections.status().message()));
  std::ofstream records;
  if (!options.load.records.empty()) {
    records.open(options.load.records);
    if (!records)
      return Fail(console, kExitUsage,
                  absl::StrCat("--records: can't write ", options.load.records));
  }
  LoadView view(options.load, console);
  const std::vector<LoadRow> rows =
      RunLoad({.plan = *plan,
               .connections = *connections,
               .address = options.connection.server,
               .records = records.is_open() ? &records : nullptr,
               .show = [&view](const LoadProgress& progress) { view.Show(progress); }},
              session.interrupt);
  view.End();
  if (records.is_open() && !records.flush())
    return Fail(console, kExitOther, absl::StrCat("can't write ", options.load.records));
  if (options.load.json) {
    console.out << JsonLine(LoadJson(*plan, rows)) << std::endl;
  } else {
    console.out << LoadText(*plan, rows) << std::flush;
  }
  return ExitStatusOf(rows, session);
}

}  // namespace

void AddLoadCommand(CLI::App& app, Session& session) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "load", "Load a server, and tell what it took: throughput, times, outcomes");
  AddLoadOptions(*command, options->load);
  AddConnectionOptions(*command, options->connection, "60s");
  command->remove_option(command->get_option("--retries"));  // Each outcome counts as it is.
  command->callback([options, &session] {
    session.run = [options, &session] { return Run(*options, session); };
  });
}

}  // namespace patchflow
