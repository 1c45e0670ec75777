#include "server/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/admission.h"
#include "server/dispatcher.h"
#include "server/errors.h"
#include "server/group.h"
#include "server/grpc_worker_client.h"
#include "server/health_service.h"
#include "server/image_service.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/metrics_http.h"
#include "server/registry.h"
#include "server/served_model.h"
#include "server/supervisor.h"
#include "server/timer.h"
#include "server/version.h"

namespace patchflow {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(250);
constexpr auto kDrainPoll = std::chrono::milliseconds(5);
constexpr absl::Duration kLastWrites = absl::Seconds(2);
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

std::vector<std::string> ModelNames(const ServerConfig& config) {
  std::vector<std::string> names;
  for (const GroupConfig& group : config.groups) {
    if (std::find(names.begin(), names.end(), group.model_name) == names.end()) {
      names.push_back(group.model_name);
    }
  }
  return names;
}

std::vector<std::string> GroupNames(const ServerConfig& config) {
  std::vector<std::string> names;
  for (const GroupConfig& group : config.groups) {
    names.push_back(group.name);
  }
  return names;
}

absl::Status DrainedError() {
  return WithRetry(MakeError(absl::StatusCode::kUnavailable, reason::kDraining,
                             "the server shut down before the images were made"),
                   absl::Seconds(1));
}

}  // namespace

// Built from the top, destroyed by ~Server from the bottom.
struct Server::Parts {
  explicit Parts(const ServerConfig& config)
      : timer(std::make_unique<Timer>()),
        metrics(ModelNames(config), GroupNames(config)),
        registry(static_cast<size_t>(config.limits.result_bytes), config.limits.result_age),
        admission(models, registry, *timer, config.limits),
        images(admission, models, registry,
               CallServices{*timer, metrics, config.limits.slow_client_timeout}) {}

  std::unique_ptr<Timer> timer;
  Metrics metrics;
  std::vector<std::unique_ptr<Group>> groups;
  Admission::Models models;
  Registry registry;
  Admission admission;
  ImageService images;
  HealthService health;
  std::unique_ptr<MetricsHttp> http;
  std::unique_ptr<grpc::Server> grpc;
  std::vector<std::unique_ptr<Supervisor>> supervisors;
  std::vector<std::unique_ptr<Dispatcher>> dispatchers;
};

Server::Server(const ServerConfig& config)
    : config_(config), parts_(std::make_unique<Parts>(config_)) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerConfig& config) {
  std::unique_ptr<Server> server(new Server(config));
  server->MakeModels();
  absl::Status status = server->Listen();
  if (status.ok()) {
    status = server->StartWorkers();
  }
  if (!status.ok()) {
    return status;
  }
  server->Tick();
  return server;
}

void Server::MakeModels() {
  for (const GroupConfig& config : config_.groups) {
    auto group = std::make_unique<Group>(config);
    group->OnChange([this] { UpdateHealth(); });
    group->OnBeat([this, name = config.name](const worker::v1::WatchResponse& beat) {
      parts_->metrics.Beat(name, beat);
    });
    parts_->groups.push_back(std::move(group));
  }
  for (const std::string& name : ModelNames(config_)) {
    std::vector<Group*> groups;
    for (const auto& group : parts_->groups) {
      if (group->config().model_name == name) {
        groups.push_back(group.get());
      }
    }
    parts_->models[name] = std::make_unique<ServedModel>(name, std::move(groups), config_.limits,
                                                         parts_->metrics.model(name));
  }
}

absl::Status Server::Listen() {
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(config_.listen, grpc::InsecureServerCredentials(), &port);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // A port in use must be refused.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  builder.SetMaxReceiveMessageSize(static_cast<int>(config_.limits.max_message_bytes));
  builder.SetMaxSendMessageSize(-1);
  builder.RegisterService(&parts_->images);
  builder.RegisterService(&parts_->health);
  parts_->grpc = builder.BuildAndStart();
  if (parts_->grpc == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("server.listen: cannot listen on ", config_.listen, ": is it in use?"));
  }
  listen_address_ = config_.listen;
  if (listen_address_.rfind("unix:", 0) != 0) {
    listen_address_ = absl::StrCat(config_.listen.substr(0, config_.listen.rfind(':')), ":", port);
  }
  if (!config_.metrics.empty()) {
    auto http = MetricsHttp::Start(
        config_.metrics,
        {[this] { return parts_->metrics.Text([this] { RefreshMetrics(); }); },
         [this] { return parts_->health.live(); }, [this] { return parts_->health.ready(); }});
    if (!http.ok()) {
      return http.status();
    }
    parts_->http = *std::move(http);
    metrics_address_ = parts_->http->address();
  }
  return absl::OkStatus();
}

absl::Status Server::StartWorkers() {
  Supervisor::Options options;
  options.supervision = config_.supervision;
  options.connect = ConnectGrpcWorker;
  options.on_given_up = [this](const std::string& why) { GiveUp(why); };
  const bool any_local = std::any_of(config_.groups.begin(), config_.groups.end(),
                                     [](const GroupConfig& group) { return group.worker.empty(); });
  if (any_local) {
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
  }
  LogInfo("listening", {{"listen", listen_address_},
                        {"metrics", metrics_address_},
                        {"version", kVersion},
                        {"server_instance", parts_->admission.server_instance()}});
  for (size_t i = 0; i < parts_->groups.size(); ++i) {
    Group& group = *parts_->groups[i];
    ServedModel& model = *parts_->models.at(group.config().model_name);
    options.socket = absl::StrCat(socket_directory_, "/", i);
    parts_->supervisors.push_back(std::make_unique<Supervisor>(group, options));
    parts_->dispatchers.push_back(std::make_unique<Dispatcher>(
        Dispatcher::Parts{group, model.queue(), model.costs(), parts_->registry, model.metrics()}));
  }
  return absl::OkStatus();
}

Server::~Server() {
  ticking_ = false;
  for (const auto& generation : parts_->registry.Live()) {
    generation->End(DrainedError());
  }
  for (const auto& group : parts_->groups) {
    group->Stop();
  }
  for (const auto& [name, model] : parts_->models) {
    model->queue().Close();
    model->queue().Interrupt();
  }
  parts_->dispatchers.clear();
  parts_->supervisors.clear();
  parts_->health.Shutdown();
  if (parts_->grpc != nullptr) {
    parts_->grpc->Shutdown(absl::ToChronoTime(absl::Now() + kLastWrites));
    parts_->grpc->Wait();
    parts_->grpc.reset();
  }
  parts_->http.reset();
  parts_->timer.reset();
  if (!socket_directory_.empty()) {
    std::error_code ignored;
    std::filesystem::remove_all(socket_directory_, ignored);
  }
}

void Server::Tick() {
  for (const auto& [name, model] : parts_->models) {
    model->EndHopeless(config_.limits.recovery_timeout);
    model->TellPositions();
  }
  parts_->registry.Expire();
  if (ticking_) {
    parts_->timer->After(kTick, [this] { Tick(); });
  }
}

void Server::UpdateHealth() {
  parts_->health.SetReady(!draining_ &&
                          std::all_of(parts_->models.begin(), parts_->models.end(),
                                      [](const auto& entry) { return entry.second->ready(); }));
}

void Server::RefreshMetrics() {
  for (const auto& [name, model] : parts_->models) {
    const ModelMetrics& metrics = model->metrics();
    metrics.ready->Set(model->ready() ? 1 : 0);
    metrics.queue_depth->Set(static_cast<double>(model->queue().size()));
    metrics.queue_capacity->Set(static_cast<double>(model->queue().capacity()));
    metrics.queue_oldest->Set(absl::ToDoubleSeconds(model->queue().OldestAge()));
    const auto waiting = model->queue().InOrder();
    absl::Duration wait;
    if (auto plan = model->ChoosePlan(); plan.ok()) {
      wait = model->EstimateWait(plan->plan_digest(), waiting).value_or(absl::ZeroDuration());
    }
    metrics.estimated_wait->Set(absl::ToDoubleSeconds(wait));
    metrics.running->Set(static_cast<double>(
        std::count_if(model->groups().begin(), model->groups().end(),
                      [](const Group* group) { return group->running() != nullptr; })));
  }
  for (const auto& group : parts_->groups) {
    const GroupMetrics& metrics = parts_->metrics.group(group->config().name);
    for (const auto& [state, gauge] : metrics.state) {
      gauge->Set(state == Name(group->state()) ? 1 : 0);
    }
    metrics.restarts->Set(group->restarts());
    if (auto info = group->info()) {
      metrics.load_time->Set(absl::ToDoubleSeconds(FromProto(info->load_time())));
      metrics.warmup_time->Set(absl::ToDoubleSeconds(FromProto(info->warmup_time())));
    }
  }
}

bool Server::WaitUntilDone() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return stopped_ || given_up_; });
  return given_up_;
}

void Server::Stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
}

void Server::GiveUp(const std::string& why) {
  LogError("a group is given up", {{"why", why}});
  parts_->health.SetLive(false);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    given_up_ = true;
  }
  changed_.notify_all();
}

bool Server::Idle() const { return parts_->registry.live() == 0; }

void Server::Drain() {
  LogInfo("draining", {{"timeout_seconds", absl::ToDoubleSeconds(config_.drain.timeout)}});
  draining_ = true;
  UpdateHealth();
  std::this_thread::sleep_for(ToClock(config_.drain.delay));
  parts_->admission.StartDraining();
  const auto until = Clock::now() + ToClock(config_.drain.timeout);
  const auto streams_gone = [this] { return parts_->metrics.streams_open().Value() <= 0; };
  while (Clock::now() < until && !(Idle() && streams_gone())) {
    std::this_thread::sleep_for(kDrainPoll);
  }
  const auto left = parts_->registry.Live();
  for (const auto& generation : left) {
    generation->End(DrainedError());
  }
  LogInfo("drained", {{"ended_unfinished", static_cast<int64_t>(left.size())}});
}

}  // namespace patchflow
