// What a Server does with the groups of its models: makes them, keeps them at work, replaces them.
#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/grpc_worker_client.h"
#include "server/log.h"
#include "server/memory_room.h"
#include "server/server_parts.h"
#include "server/version.h"

namespace patchflow {
namespace {

constexpr size_t kMaxSocketPath = 100;  // sun_path has 108 bytes.

// A directory of ours alone, with a path that leaves room for socket names.
absl::StatusOr<std::string> MakeSocketDirectory() {
  std::error_code error;
  std::string base = std::filesystem::temp_directory_path(error).string();
  if (error || base.size() > kMaxSocketPath - 48) {
    base = "/tmp";
  }
  std::string path = absl::StrCat(base, "/patchflow.XXXXXX");
  if (mkdtemp(path.data()) == nullptr) {
    return absl::UnavailableError(absl::StrCat("cannot make a directory in ", base));
  }
  return path;
}

}  // namespace

std::vector<std::string> ModelNames(const ServerConfig& config) {
  std::vector<std::string> names;
  for (const GroupConfig& group : config.groups) {
    if (std::find(names.begin(), names.end(), group.model_name) == names.end()) {
      names.push_back(group.model_name);
    }
  }
  return names;
}

std::unique_ptr<Group> Server::MakeGroup(const GroupConfig& config, std::map<LossKind, int> losses,
                                         FaultCounts faults) {
  auto group = std::make_unique<Group>(config, std::move(losses), std::move(faults));
  group->OnChange([this] { UpdateHealth(); });
  group->OnBeat([this, made = group.get()](const worker::v1::WatchResponse& beat) {
    if (ModelOf(*made).Serves(*made)) {
      parts_->metrics.ranks().Beat(made->config().name, beat);
    }
  });
  return group;
}

ServedModel& Server::ModelOf(const Group& group) {
  return *parts_->models.at(group.config().model_name);
}

void Server::MakeModels() {
  std::map<std::string, std::vector<Group*>> groups;
  for (const GroupConfig& config : config_.groups) {
    groups[config.model_name].push_back(&parts_->fleet.Add(MakeGroup(config)));
  }
  for (auto& [name, of_model] : groups) {
    parts_->models[name] = std::make_unique<ServedModel>(name, std::move(of_model), config_.limits,
                                                         parts_->metrics.model(name));
  }
}

absl::Status Server::FindWorkers(Supervisor::Options& options) {
  const bool any_local = std::any_of(config_.groups.begin(), config_.groups.end(),
                                     [](const GroupConfig& group) { return group.local(); });
  if (!any_local) {
    return absl::OkStatus();
  }
  auto binary = FindWorkerBinary(config_.worker_binary);
  if (!binary.ok()) {
    return binary.status();
  }
  options.binary = *std::move(binary);
  auto directory = MakeSocketDirectory();
  if (!directory.ok()) {
    return directory.status();
  }
  socket_directory_ = *std::move(directory);
  if (config_.chaos) {
    options.fault_orders = absl::StrCat(socket_directory_, "/fault-orders");
    LogWarning("chaos is allowed: workers obey orders to fail",
               {{"fault_orders", options.fault_orders}});
  }
  return absl::OkStatus();
}

void Server::SetMakers(const Supervisor::Options& options) {
  Fleet::Makers makers;
  makers.supervisor = [this, options](Group& group, bool trial) {
    Supervisor::Options own = options;
    own.trial = trial;
    own.socket = absl::StrCat(socket_directory_, "/", sockets_++);
    own.on_given_up = [this, &group](const std::string& why) {
      if (ModelOf(group).Serves(group)) {
        GiveUp(why);
      }
    };
    return std::make_unique<Supervisor>(group, std::move(own));
  };
  makers.dispatcher = [this](Group& group) {
    ServedModel& model = ModelOf(group);
    return std::make_unique<Dispatcher>(
        Dispatcher::Parts{group, model.queue(), model.costs(), parts_->registry,
                          parts_->metrics.model_of(model.name(), group.config().name)});
  };
  parts_->fleet.SetMakers(std::move(makers));
}

absl::Status Server::StartWorkers() {
  Supervisor::Options options;
  options.supervision = config_.supervision;
  options.connect = [tcp = parts_->links == nullptr ? grpc::InsecureChannelCredentials()
                                                    : parts_->links->of_channels()](
                        const std::string& address) { return ConnectGrpcWorker(address, tcp); };
  options.owner = parts_->admission.server_instance();
  options.black_boxes = &parts_->black_boxes;
  if (absl::Status status = FindWorkers(options); !status.ok()) {
    return status;
  }
  LogInfo("listening", {{"listen", listen_address_},
                        {"metrics", metrics_address_},
                        {"health", health_address_},
                        {"admin", admin_address_},
                        {"tls", parts_->tls != nullptr},
                        {"tokens", parts_->guard.asks_tokens()},
                        {"black_boxes", parts_->black_boxes.directory()},
                        {"fault_orders", options.fault_orders},
                        {"version", kVersion},
                        {"server_instance", parts_->admission.server_instance()}});
  SetMakers(options);
  for (Group* group : parts_->fleet.groups()) {
    parts_->fleet.Supervise(*group);
    parts_->fleet.Dispatch(*group);
  }
  parts_->loader = std::make_unique<VersionLoader>(
      VersionLoader::Parts{parts_->fleet,
                           [this](const GroupConfig& config, const Group& before) {
                             return MakeGroup(config, before.losses(), before.faults());
                           },
                           config_.supervision.load_timeout, config_.drain.timeout,
                           [] { return AvailableHostMemory(); }});
  started_workers_ = true;
  return absl::OkStatus();
}

absl::StatusOr<admin::v1::ModelLoad> Server::LoadModel(const std::string& model,
                                                       const std::string& folder) {
  if (!started_workers_) {
    return MakeError(absl::StatusCode::kUnavailable, reason::kStarting,
                     "the server has not started its workers yet");
  }
  if (draining_) {
    return MakeError(absl::StatusCode::kUnavailable, reason::kDraining,
                     "the process is about to end");
  }
  auto found = parts_->admission.FindModel(model, "model");
  if (!found.ok()) {
    return found.status();
  }
  return parts_->loader->Begin(**found, folder);
}

}  // namespace patchflow
