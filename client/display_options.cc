#include "client/display_options.h"

#include <nlohmann/json.hpp>
#include <ostream>

#include "client/commands.h"

namespace patchflow {

void AddDisplayOptions(CLI::App& command, DisplayOptions& options, const std::string& out) {
  options.out = out;
  const std::string group = "Output";
  command
      .add_option("-o,--out", options.out,
                  "File for each image, - for the standard output; {prompt} and {index} count from "
                  "0, also {seed} "
                  "{request_id} {model} {ext}")
      ->type_name("PATTERN")
      ->capture_default_str()
      ->group(group);
  command
      .add_flag("--json", options.json, "One JSON object a line for each prompt, instead of text")
      ->group(group);
  command.add_flag("-q,--quiet", options.quiet, "No progress, no timings")->group(group);
}

std::unique_ptr<ProgressView> MakeView(const DisplayOptions& options, Console& console) {
  return options.quiet ? MakeQuietView(console) : MakeProgressView(console);
}

int Show(const DisplayOptions& options, const GenerationResult& result, Console& console) {
  if (options.json) console.out << JsonLine(ResultJson(result)) << std::endl;
  if (!result.status.ok()) return Fail(console, result.status);
  if (!options.json && !options.quiet) console.err << DoneLine(result) << std::endl;
  return kExitOk;
}

}  // namespace patchflow
