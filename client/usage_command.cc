// patchflow usage
#include <CLI/App.hpp>
#include <algorithm>
#include <fstream>
#include <istream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/commands.h"
#include "client/generation_result.h"

namespace patchflow {
namespace {

using nlohmann::json;

struct Options {
  std::vector<std::string> files;
  std::string since;
  bool json = false;
};

// What one identity used.
struct Usage {
  int64_t calls = 0;
  int64_t failed = 0;  // Calls that ended with an error.
  int64_t generations = 0;
  int64_t images = 0;
  double megapixel_steps = 0;
  double device_seconds = 0;
  int64_t image_bytes = 0;

  void Add(const json& record) {
    const bool ok = record.value("code", "") == "OK";
    if (record.value("event", "") == "call") {
      ++calls;
      failed += ok ? 0 : 1;
      return;
    }
    const int64_t made = record.value("images", int64_t{0});
    ++generations;
    images += made;
    megapixel_steps += static_cast<double>(made) * record.value("steps", 0.0) *
                       record.value("width", 0.0) * record.value("height", 0.0) / 1e6;
    device_seconds += record.value("device_seconds", 0.0);
    image_bytes += record.value("image_bytes", int64_t{0});
  }
};

// Sums every line of an audit log that is not older than `since`. INVALID_ARGUMENT naming the line
// that is none.
absl::Status Sum(std::istream& log, const std::string& name, const std::string& since,
                 std::map<std::string, Usage>& usage) {
  std::string line;
  for (int number = 1; std::getline(log, line); ++number) {
    if (line.empty()) continue;
    const json record = json::parse(line, nullptr, false);
    try {
      // Times are of one length and zone, so their order is that of their text.
      if (record.at("time").get<std::string>() >= since)
        usage[record.at("identity").get<std::string>()].Add(record);
    } catch (const json::exception&) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ":", number, ": is no line of an audit log"));
    }
  }
  return absl::OkStatus();
}

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

int Run(const Options& options, Session& session) {
  std::map<std::string, Usage> usage;
  for (const std::string& file : options.files) {
    std::ifstream log(file);
    if (!log) return Fail(session.console, kExitUsage, absl::StrCat("can't read ", file));
    if (const absl::Status status = Sum(log, file, options.since, usage); !status.ok())
      return Fail(session.console, kExitUsage, std::string(status.message()));
  }
  if (options.json) {
    json list = json::array();
    for (const auto& [identity, used] : usage) list.push_back(Json(identity, used));
    session.console.out << JsonLine(list) << std::endl;
  } else {
    Print(usage, session.console.out);
  }
  return kExitOk;
}

}  // namespace

void AddUsageCommand(CLI::App& app, Session& session) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("usage", "Sum a server's audit log: what each identity used");
  command->add_option("files", options->files, "Audit logs, as audit.file names them")
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
