// patchflow usage
#include <CLI/App.hpp>
#include <algorithm>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/commands.h"
#include "client/generation_result.h"
#include "client/usage_sums.h"

namespace patchflow {
namespace {

using nlohmann::json;

struct Options {
  std::vector<std::string> files;
  std::string since;
  bool json = false;
};

json Json(const std::string& identity, const Usage& usage) {
  return {{"identity", identity},
          {"calls", usage.calls},
          {"failed", usage.failed},
          {"generations", usage.generations},
          {"images", usage.images},
          {"megapixel_steps", usage.megapixel_steps},
          {"device_seconds", usage.device_seconds},
          {"image_bytes", usage.image_bytes}};
}

void Print(const std::map<std::string, Usage>& usage, std::ostream& out) {
  size_t width = sizeof "IDENTITY" - 1;
  for (const auto& [identity, used] : usage) width = std::max(width, identity.size());
  const int left = -static_cast<int>(width);
  out << absl::StrFormat("%*s %9s %9s %9s %9s %12s %12s %12s\n", left, "IDENTITY", "CALLS",
                         "FAILED", "JOBS", "IMAGES", "MPIXEL STEPS", "DEVICE S", "BYTES");
  for (const auto& [identity, used] : usage) {
    out << Printable(absl::StrFormat("%*s %9d %9d %9d %9d %12.1f %12.3f %12d\n", left,
                                     identity.empty() ? "-" : identity, used.calls, used.failed,
                                     used.generations, used.images, used.megapixel_steps,
                                     used.device_seconds, used.image_bytes));
  }
  out << std::flush;
}

// What is missing from the sums.
void Warn(const UsageSums& sums, std::ostream& err) {
  for (const std::string& place : sums.unreadable_places()) {
    err << Printable(absl::StrCat("patchflow: ", place, ": is no line of an audit log\n"));
  }
  const auto named = static_cast<int64_t>(sums.unreadable_places().size());
  if (sums.unreadable_lines() > named) {
    err << "patchflow: so are " << sums.unreadable_lines() - named << " more\n";
  }
  if (sums.lost_lines() > 0) {
    err << "patchflow: lines that the server had no room for, missing from the sums: "
        << sums.lost_lines() << "\n";
  }
  err << std::flush;
}

int Run(const Options& options, Session& session) {
  UsageSums sums(options.since);
  for (const std::string& file : options.files) {
    std::ifstream log(file);
    if (!log) return Fail(session.console, kExitUsage, absl::StrCat("can't read ", file));
    if (const absl::Status status = sums.Add(log, file); !status.ok())
      return Fail(session.console, kExitUsage, std::string(status.message()));
  }
  if (options.json) {
    json list = json::array();
    for (const auto& [identity, used] : sums.identities()) list.push_back(Json(identity, used));
    session.console.out << JsonLine(list) << std::endl;
  } else {
    Print(sums.identities(), session.console.out);
  }
  Warn(sums, session.console.err);
  return sums.whole() ? kExitOk : kExitOther;
}

}  // namespace

void AddUsageCommand(CLI::App& app, Session& session) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("usage", "Sum a server's audit log: what each identity used");
  command
      ->add_option(
          "files", options->files,
          "Audit logs, as audit.file names them. What is no line of one, and how many lines "
          "the server had no room for, is told on standard error; the sums are then printed "
          "without them, and the exit status is 1")
      ->type_name("FILE...")
      ->required();
  command->add_option("--since", options->since, "Leave out what is older: 2026-01-31, or longer")
      ->type_name("TIME");
  command->add_flag("--json", options->json, "One JSON array");
  command->callback([options, &session] {
    session.run = [options, &session] { return Run(*options, session); };
  });
}

}  // namespace patchflow
