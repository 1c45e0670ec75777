// patchflow replay
#include <unistd.h>

#include <CLI/App.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "client/commands.h"
#include "client/connection.h"
#include "client/generate_options.h"
#include "client/picture_file.h"
#include "client/progress_view.h"
#include "client/receive.h"
#include "client/replay.h"
#include "client/server_error.h"

namespace patchflow {
namespace {

struct Options {
  ConnectionOptions connection;
  std::string file;
  std::string out;
  std::string model;
  int quality = 0;  // 0: what the image says.
  bool json = false;
  bool quiet = false;
};

absl::StatusOr<std::string> ReadImage(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (!stream) return absl::InvalidArgumentError("it can't be read");
  return bytes;
}

// A folder that goes with its owner.
class TemporaryFolder {
 public:
  TemporaryFolder() : path_(std::filesystem::temp_directory_path() / "patchflow-replay-XXXXXX") {
    std::string name = path_.string();
    if (mkdtemp(name.data()) != nullptr) path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string operator/(const char* name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

struct Original {
  std::string bytes;
  v1::GenerateImagesRequest request;
};

absl::StatusOr<Original> ReadOriginal(const Options& options, absl::Duration timeout) {
  auto bytes = ReadImage(options.file);
  if (!bytes.ok()) return bytes.status();
  const auto format = FormatOfFile(*bytes);
  auto texts = PictureTexts(*bytes);
  if (!texts.ok()) return texts.status();
  if (options.quality > 0) texts->emplace("quality", absl::StrCat(options.quality));
  auto request = RequestOfTexts(*texts, *format, timeout);
  if (!request.ok()) return request.status();
  if (!options.model.empty()) request->set_model(options.model);
  request->set_request_id(RandomRequestId());
  return Original{*std::move(bytes), *std::move(request)};
}

int ShowComparison(const Options& options, const Comparison& comparison, Console& console) {
  if (options.json) {
    nlohmann::json json = ComparisonJson(comparison);
    json["file"] = options.file;
    console.out << JsonLine(json) << std::endl;
  } else {
    console.out << Printable(absl::StrCat(options.file, ": ", RenderComparison(comparison)))
                << std::endl;
  }
  return comparison.same_picture() ? kExitOk : kExitOther;
}

int Run(const Options& options, Session& session) {
  auto connection = Connection::Open(options.connection);
  if (!connection.ok())
    return Fail(session.console, kExitUsage, std::string(connection.status().message()));
  const auto original = ReadOriginal(options, connection->timeout());
  if (!original.ok()) {
    return Fail(session.console, kExitUsage,
                absl::StrCat(options.file, ": ", std::string(original.status().message())));
  }
  const TemporaryFolder folder;
  const std::string path = options.out.empty() ? folder / "again" : options.out;
  auto out = OutputPattern::Parse(path);
  if (!out.ok()) return Fail(session.console, kExitUsage, std::string(out.status().message()));
  if (out->is_stdout()) {
    return Fail(session.console, kExitUsage, "--out: the standard output is for the comparison");
  }

  const std::unique_ptr<ProgressView> view = options.quiet || options.json
                                                 ? MakeQuietView(session.console)
                                                 : MakeProgressView(session.console);
  const Receiving receiving{*connection, session.console, session.interrupt, *view, false};
  const GenerationResult result =
      Receive(receiving, OpenGenerate(*connection, original->request),
              {.request_id = original->request.request_id(), .out = *out});
  if (!result.status.ok()) return Fail(session.console, result.status);
  const auto again = ReadImage(result.images.front().path);
  if (!again.ok()) return Fail(session.console, kExitOther, "the image made again can't be read");
  const auto comparison = CompareImages(original->bytes, *again);
  if (!comparison.ok()) {
    return Fail(session.console, kExitOther,
                absl::StrCat(options.file, ": ", std::string(comparison.status().message())));
  }
  return ShowComparison(options, *comparison, session.console);
}

}  // namespace

void AddReplayCommand(CLI::App& app, Session& session) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "replay",
      "Make a PNG, JPEG or WebP image again from its metadata (generate --embed-metadata) and tell "
      "whether it is "
      "identical, or else which field of the plan differs. Exit status 1 for another picture");
  command->add_option("file", options->file, "The image")->type_name("FILE")->required();
  command->add_option("-o,--out", options->out, "Keep the new image in this file")
      ->type_name("FILE");
  command->add_option("-m,--model", options->model, "Name of the model here, if it has another one")
      ->type_name("NAME");
  command->add_option("--quality", options->quality, "1 to 100, of an image that does not tell it")
      ->check(CLI::Range(1, 100));
  command->add_flag("--json", options->json, "One JSON object instead of text");
  command->add_flag("-q,--quiet", options->quiet, "No progress");
  AddConnectionOptions(*command, options->connection, "10m");
  command->callback([options, &session] {
    session.run = [options, &session] { return Run(*options, session); };
  });
}

}  // namespace patchflow
