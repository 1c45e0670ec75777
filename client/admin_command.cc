// patchflow admin
#include <google/protobuf/util/time_util.h>
#include <grpcpp/create_channel.h>

#include <CLI/App.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/commands.h"
#include "client/connection.h"
#include "client/generation_result.h"
#include "client/server_error.h"
#include "client/status_line.h"
#include "patchflow/admin/v1/admin.grpc.pb.h"

namespace patchflow {
namespace {

using Stub = admin::v1::AdminService::Stub;

constexpr absl::Duration kCallTimeout = absl::Seconds(10);
constexpr absl::Duration kPoll = absl::Milliseconds(250);

struct Options {
  std::string address = "127.0.0.1:50053";
  bool json = false;
  std::string level;
  std::string model;
  std::string folder;
  std::string timeout;
  bool no_wait = false;
};

class AdminCalls {
 public:
  AdminCalls(const Options& options, Session& session) : options_(options), session_(session) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    stub_ = admin::v1::AdminService::NewStub(
        grpc::CreateCustomChannel(options.address, grpc::InsecureChannelCredentials(), arguments));
  }

  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + kCallTimeout));
    Response response;
    absl::Status status;
    {
      const Interrupt::Guard guard(session_.interrupt, [&context] { context.TryCancel(); });
      status = StatusOf(((*stub_).*method)(&context, request, &response));
    }
    if (!status.ok()) return status;
    return response;
  }

  // Makes the call and prints what it brings: `text` for people.
  template <typename Request, typename Response, typename Text>
  int Print(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
            const Request& request, const Text& text) {
    const auto response = Call(method, request);
    if (!response.ok()) return Fail(session_.console, response.status());
    session_.console.out << (options_.json ? JsonLine(MessageJson(*response))
                                           : Printable(text(*response)))
                         << std::endl;
    return kExitOk;
  }

 private:
  const Options& options_;
  Session& session_;
  std::unique_ptr<Stub> stub_;
};

std::string LoadText(const admin::v1::ModelLoad& load) {
  std::string text =
      absl::StrCat(load.folder(), ": ",
                   admin::v1::LoadState_Name(load.state()).substr(sizeof "LOAD_STATE_" - 1));
  if (load.state() == admin::v1::LOAD_STATE_DRAINING)
    absl::StrAppend(&text, ", ", load.old_generations(), " generations of the old version left");
  if (!load.failure().empty()) absl::StrAppend(&text, ": ", load.failure());
  if (load.ended_unfinished() > 0)
    absl::StrAppend(&text, ", ", load.ended_unfinished(), " generations ended unfinished");
  return text;
}

std::string StatusText(const admin::v1::GetStatusResponse& status) {
  std::string text = absl::StrCat(
      "patchflow-server ", status.version(), ", ", status.ready() ? "ready" : "not ready",
      status.draining() ? ", draining" : "", ", log level ", status.log_level(), "\n",
      status.live_generations(), " generations live, ", status.kept_generations(), " kept (",
      status.kept_bytes() >> 20, " MiB)");
  for (const auto& model : status.models()) {
    absl::StrAppend(&text, "\n", model.name(), "  ", model.ready() ? "ready" : "not ready", ", ",
                    model.running(), " run, ", model.queue_depth(), " of ", model.queue_capacity(),
                    " wait");
    if (model.has_load()) absl::StrAppend(&text, "\n  ", LoadText(model.load()));
  }
  return text;
}

std::string WorkersText(const admin::v1::ListWorkersResponse& list) {
  std::vector<std::string> lines;
  for (const auto& worker : list.workers()) {
    lines.push_back(absl::StrCat(
        worker.group(), "  ", worker.model(), "  ", worker.role(), "  ", worker.state(), "  ",
        worker.layout(), "  plan ", worker.plan_digest().substr(0, 12), "  ",
        worker.address().empty() ? worker.folder() : worker.address(),
        worker.running_request_id().empty() ? ""
                                            : absl::StrCat("  runs ", worker.running_request_id()),
        worker.failure().empty() ? "" : absl::StrCat("\n  ", worker.failure())));
    for (const auto& rank : worker.ranks()) {
      lines.push_back(absl::StrCat(
          "  rank ", rank.rank(), "  ", rank.device(), "  ", rank.memory_used_bytes() >> 20, " of ",
          rank.memory_total_bytes() >> 20, " MiB, peak ", rank.memory_peak_bytes() >> 20));
    }
  }
  return absl::StrJoin(lines, "\n");
}

int PrintLoad(const Options& options, Session& session, const admin::v1::ModelLoad& load) {
  session.console.out << (options.json ? JsonLine(MessageJson(load)) : Printable(LoadText(load)))
                      << std::endl;
  return load.state() == admin::v1::LOAD_STATE_FAILED ? kExitOther : kExitOk;
}

int RunLoad(const Options& options, Session& session) {
  const auto timeout = ParseTimeout(options.timeout);
  if (!timeout.ok())
    return Fail(session.console, kExitUsage, std::string(timeout.status().message()));
  AdminCalls calls(options, session);
  admin::v1::LoadModelRequest request;
  request.set_model(options.model);
  request.set_folder(options.folder);
  const auto begun = calls.Call(&Stub::LoadModel, request);
  if (!begun.ok()) return Fail(session.console, begun.status());
  if (options.no_wait) return PrintLoad(options, session, begun->load());
  const absl::Time until = absl::Now() + *timeout;
  StatusLine line(session.console);
  std::string shown;
  while (absl::Now() < until && !session.interrupt.WaitFor(kPoll)) {
    const auto status = calls.Call(&Stub::GetStatus, admin::v1::GetStatusRequest());
    if (!status.ok()) return Fail(session.console, status.status());
    for (const auto& model : status->models()) {
      if (!options.model.empty() && model.name() != options.model) continue;
      const admin::v1::ModelLoad& load = model.load();
      if (load.has_end_time()) {
        line.Clear();
        return PrintLoad(options, session, load);
      }
      if (LoadText(load) != shown) line.Show(shown = Printable(LoadText(load)));
    }
  }
  if (session.interrupt.triggered())
    return Fail(session.console, absl::CancelledError("interrupted; the server goes on loading"));
  return Fail(session.console, absl::DeadlineExceededError(absl::StrCat(
                                   "not done after ", options.timeout, "; the server goes on")));
}

int RunSetLevel(const Options& options, Session& session) {
  admin::v1::SetLogLevelRequest request;
  request.set_level(options.level);
  return AdminCalls(options, session)
      .Print(&Stub::SetLogLevel, request, [](const admin::v1::SetLogLevelResponse& response) {
        return absl::StrCat("was ", response.previous_level());
      });
}

using Run = int (*)(const Options& options, Session& session);

int RunStatus(const Options& options, Session& session) {
  return AdminCalls(options, session)
      .Print(&Stub::GetStatus, admin::v1::GetStatusRequest(), StatusText);
}

int RunWorkers(const Options& options, Session& session) {
  return AdminCalls(options, session)
      .Print(&Stub::ListWorkers, admin::v1::ListWorkersRequest(), WorkersText);
}

int RunDrain(const Options& options, Session& session) {
  return AdminCalls(options, session)
      .Print(&Stub::Drain, admin::v1::DrainRequest(), [](const admin::v1::DrainResponse& response) {
        return absl::StrCat("draining, ", response.live_generations(), " generations left");
      });
}

int RunResume(const Options& options, Session& session) {
  return AdminCalls(options, session)
      .Print(&Stub::Resume, admin::v1::ResumeRequest(),
             [](const admin::v1::ResumeResponse&) { return std::string("requests are taken"); });
}

}  // namespace

void AddAdminCommand(CLI::App& app, Session& session) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("admin", "Steer a server of this host, through the listener server.admin");
  command->require_subcommand(1);
  command->add_option("--admin", options->address, "Address of server.admin, or unix:PATH")
      ->envname("PATCHFLOW_ADMIN")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  command->add_flag("--json", options->json, "Everything the server tells, as one JSON object");
  const auto add = [&](const char* name, const char* help, Run run) {
    CLI::App* sub = command->add_subcommand(name, help);
    sub->fallthrough();
    sub->callback([options, &session, run] {
      session.run = [options, &session, run] { return run(*options, session); };
    });
    return sub;
  };
  add("status", "How the server and its models are", RunStatus);
  add("workers", "Every group with its worker and ranks", RunWorkers);
  add("drain", "Refuse new requests; what runs or waits goes on", RunDrain);
  add("resume", "Take requests again; begin anew with groups that were given up for a GPU",
      RunResume);
  add("log-level", "Set how much is logged until the server ends", RunSetLevel)
      ->add_option("level", options->level, "debug, info, warning, error")
      ->required();
  CLI::App* load = add("load",
                       "Load other weights of a model beside those that are served, and serve "
                       "them once they are ready",
                       RunLoad);
  load->add_option("folder", options->folder, "Diffusers directory: an absolute path of the host")
      ->type_name("FOLDER")
      ->required();
  load->add_option("--model", options->model, "Name of the model; needed if there are several");
  load->add_flag("--no-wait", options->no_wait, "Don't wait until the old version has ended");
  options->timeout = "30m";
  load->add_option("--timeout", options->timeout, "Wait at most so long: 90, 1.5s, 10m")
      ->type_name("TIME")
      ->capture_default_str();
}

}  // namespace patchflow
