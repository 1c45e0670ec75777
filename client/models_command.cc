// patchflow models
#include <CLI/App.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/commands.h"
#include "client/generation_result.h"
#include "client/unary_call.h"

namespace patchflow {
namespace {

struct Options {
  ConnectionOptions connection;
  bool json = false;
};

using Row = std::vector<std::string>;

Row RowOf(const v1::Model& model) {
  const v1::ModelDefaults& defaults = model.defaults();
  const v1::ModelLimits& limits = model.limits();
  return {model.name(),
          model.ready() ? "yes" : "no",
          absl::StrCat(defaults.width(), "x", defaults.height()),
          absl::StrCat(limits.min_size(), "-", limits.max_size()),
          absl::StrCat(defaults.steps()),
          absl::StrFormat("%g", defaults.guidance_scale()),
          absl::StrJoin(model.schedulers(), ","),
          absl::StrCat(model.device(), " ", model.dtype()),
          absl::StrJoin(model.layouts(), " | ")};
}

void PrintTable(const std::vector<Row>& rows, std::ostream& out) {
  std::vector<size_t> widths(rows[0].size());
  for (const Row& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - row[i].size() + 2, ' ');
    }
    out << Printable(line) << "\n";
  }
  out << std::flush;
}

void PrintModels(const v1::ListModelsResponse& response, std::ostream& out) {
  std::vector<Row> rows = {
      {"NAME", "READY", "SIZE", "SIDES", "STEPS", "GUIDANCE", "SCHEDULERS", "DEVICE", "LAYOUT"}};
  for (const v1::Model& model : response.models()) rows.push_back(RowOf(model));
  PrintTable(rows, out);
}

int Run(const Options& options, Session& session) {
  return RunCall(options.connection, session, &v1::ImageGenerationService::Stub::ListModels,
                 v1::ListModelsRequest(), [&](const v1::ListModelsResponse& response) {
                   if (options.json) {
                     session.console.out << JsonLine(MessageJson(response)["models"]) << std::endl;
                   } else {
                     PrintModels(response, session.console.out);
                   }
                   return kExitOk;
                 });
}

}  // namespace

void AddModelsCommand(CLI::App& app, Session& session) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("models", "List the models with their defaults and limits");
  command->add_flag("--json", options->json, "Everything the server tells, as one JSON array");
  AddConnectionOptions(*command, options->connection, "10s");
  command->callback([options, &session] {
    session.run = [options, &session] { return Run(*options, session); };
  });
}

}  // namespace patchflow
