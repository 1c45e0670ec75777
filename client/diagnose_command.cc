// patchflow diagnose
#include <unistd.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <ostream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/commands.h"
#include "client/diagnosis.h"
#include "client/generation_result.h"
#include "client/tar_gz.h"

namespace patchflow {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string path;
  std::string out;
  bool json = false;
  bool no_bundle = false;
};

// As the server chooses it: server/black_box.h.
std::string DefaultDirectory() {
  std::error_code error;
  const fs::path base = fs::temp_directory_path(error);
  return (error ? fs::path("/tmp") : base) / absl::StrCat("patchflow-", getuid(), "-black-boxes");
}

// The boxes that are asked for, newest first.
std::vector<std::string> Boxes(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return {path};
  std::vector<std::string> boxes;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    const std::string name = entry.path().filename().string();
    if (absl::StartsWith(name, "black-box-") && absl::EndsWith(name, ".json"))
      boxes.push_back(entry.path().string());
  }
  std::sort(boxes.rbegin(), boxes.rend());
  return boxes;
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string Value(const nlohmann::json& box, const char* pointer) {
  const nlohmann::json::json_pointer at(pointer);
  if (!box.contains(at)) return "";
  return box.at(at).is_string() ? box.at(at).get<std::string>() : box.at(at).dump();
}

std::string Text(const nlohmann::json& box, const Diagnosis& diagnosis) {
  std::string text = absl::StrCat("cause: ", Name(diagnosis.cause), "\n", diagnosis.sentence, "\n");
  for (const std::string& line : diagnosis.evidence) {
    if (!line.empty()) absl::StrAppend(&text, "  ", line, "\n");
  }
  absl::StrAppend(&text, diagnosis.advice, "\n");
  for (const auto& [label, pointer] :
       {std::pair{"when", "/time"}, std::pair{"group", "/group"},
        std::pair{"process", "/process/pid"}, std::pair{"request", "/request/id"},
        std::pair{"layout", "/configuration/layout"}, std::pair{"noticed", "/loss/why"}}) {
    if (const std::string value = Value(box, pointer); !value.empty())
      absl::StrAppend(&text, label, ": ", value, "\n");
  }
  return Printable(text);
}

// The tar.gz's path.
absl::StatusOr<std::string> Bundle(const Options& options, const std::vector<std::string>& boxes,
                                   const std::string& diagnosis) {
  const absl::Time now = absl::Now();
  const std::string path =
      options.out.empty()
          ? absl::StrCat("patchflow-diagnosis-",
                         absl::FormatTime("%Y%m%dT%H%M%S", now, absl::UTCTimeZone()), ".tar.gz")
          : options.out;
  std::vector<PackedFile> files = {{"diagnosis.txt", diagnosis}};
  for (const std::string& box : boxes)
    files.push_back({fs::path(box).filename().string(), ReadAll(box)});
  if (const absl::Status status = WriteTarGz(path, files, now); !status.ok()) return status;
  return path;
}

int Run(const Options& options, Session& session) {
  const std::vector<std::string> boxes = Boxes(options.path);
  if (boxes.empty())
    return Fail(session.console, kExitUsage,
                absl::StrCat("no black box in ", options.path,
                             ": no worker died, or the server's "
                             "black_box.directory is another"));
  const absl::StatusOr<nlohmann::json> box = ReadBox(boxes[0]);
  if (!box.ok()) return Fail(session.console, kExitUsage, std::string(box.status().message()));
  const Diagnosis diagnosis = Diagnose(*box);
  const std::string text = Text(*box, diagnosis);
  std::string bundle;
  if (!options.no_bundle) {
    const absl::StatusOr<std::string> packed = Bundle(options, boxes, text);
    if (!packed.ok())
      return Fail(session.console, kExitOther, std::string(packed.status().message()));
    bundle = *packed;
  }
  if (options.json) {
    nlohmann::json json = {{"box", boxes[0]},
                           {"cause", Name(diagnosis.cause)},
                           {"sentence", diagnosis.sentence},
                           {"advice", diagnosis.advice},
                           {"evidence", diagnosis.evidence}};
    if (!bundle.empty()) json["bundle"] = bundle;
    session.console.out << JsonLine(json) << std::endl;
    return kExitOk;
  }
  session.console.out << text << "box: " << Printable(boxes[0]) << "\n";
  if (boxes.size() > 1)
    session.console.out << "older boxes beside it: " << boxes.size() - 1 << "\n";
  if (!bundle.empty())
    session.console.out << "packed, to be sent with a report: " << Printable(bundle) << "\n";
  session.console.out << std::flush;
  return kExitOk;
}

}  // namespace

void AddDiagnoseCommand(CLI::App& app, Session& session) {
  const auto options = std::make_shared<Options>();
  options->path = DefaultDirectory();
  CLI::App* command = app.add_subcommand(
      "diagnose",
      "Name the likely cause of a worker's death from its black box, and pack a bundle");
  command
      ->add_option("path", options->path,
                   "A black box, or the folder of them, of which the newest is told")
      ->type_name("DIR|FILE")
      ->capture_default_str();
  command->add_option("--out", options->out, "Name of the bundle; default: one of this second here")
      ->type_name("FILE");
  command->add_flag("--no-bundle", options->no_bundle, "Pack nothing");
  command->add_flag("--json", options->json, "One JSON object");
  command->callback([options, &session] {
    session.run = [options, &session] { return Run(*options, session); };
  });
}

}  // namespace patchflow
