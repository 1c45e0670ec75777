#include "server/server.h"

#include <algorithm>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/caller.h"
#include "server/draining.h"
#include "server/errors.h"
#include "server/log.h"
#include "server/otlp_client.h"
#include "server/random.h"
#include "server/server_parts.h"
#include "server/version.h"

namespace patchflow {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(250);
constexpr auto kDrainPoll = std::chrono::milliseconds(5);
constexpr absl::Duration kLastWrites = absl::Seconds(2);

std::vector<std::string> GroupNames(const ServerConfig& config) {
  std::vector<std::string> names;
  for (const GroupConfig& group : config.groups) {
    names.push_back(group.name);
  }
  return names;
}

}  // namespace

Server::Parts::Parts(const ServerConfig& config, std::unique_ptr<AuditLog> audit_log,
                     std::unique_ptr<Store> opened_store, TraceExporter::Send send_traces,
                     AdminActions actions)
    : timer(std::make_unique<Timer>()),
      metrics(ModelNames(config), GroupNames(config)),
      black_boxes(config.black_box),
      audit(std::move(audit_log)),
      store(std::move(opened_store)),
      exporter(MakeTraceExporter(config.tracing, std::move(send_traces), metrics.tracing())),
      tracer({static_cast<size_t>(config.tracing.recent), config.tracing.sample_ratio},
             exporter.get()),
      registry(static_cast<size_t>(config.limits.result_bytes), config.limits.result_age),
      admission({models, registry, *timer, *audit, store.get(), &tracer}, config.limits),
      images(admission, models, registry, tracer, guard,
             CallServices{*timer, metrics, *audit, config.limits.slow_client_timeout}),
      health(&guard),
      probes(nullptr),
      admin(std::move(actions), *audit) {}

Server::Server(const ServerConfig& config, std::unique_ptr<AuditLog> audit,
               std::unique_ptr<Store> store, TraceExporter::Send send_traces)
    : config_(config),
      parts_(std::make_unique<Parts>(
          config_, std::move(audit), std::move(store), std::move(send_traces),
          AdminActions{[this] { return Status(); }, [this] { return Workers(); },
                       [this] { return DrainForAdmin(); }, [this] { return Resume(); },
                       [this](const std::string& model, const std::string& folder) {
                         return LoadModel(model, folder);
                       }})) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerConfig& config) {
  auto audit = AuditLog::Open(config.audit);
  if (!audit.ok()) {
    return audit.status();
  }
  std::unique_ptr<Store> store;
  if (!config.store.directory.empty()) {
    auto opened = Store::Open(config.store);
    if (!opened.ok()) {
      return opened.status();
    }
    store = *std::move(opened);
  }
  auto send_traces = MakeOtlpSender(config.tracing);
  if (!send_traces.ok()) {
    return send_traces.status();
  }
  std::unique_ptr<Server> server(
      new Server(config, *std::move(audit), std::move(store), *std::move(send_traces)));
  server->MakeModels();
  for (auto step :
       {&Server::Restore, &Server::OpenSecurity, &Server::OpenListeners, &Server::StartWorkers}) {
    if (absl::Status status = (server.get()->*step)(); !status.ok()) {
      return status;
    }
  }
  server->Tick();
  return server;
}

absl::Status Server::Restore() {
  if (parts_->store == nullptr) {
    return absl::OkStatus();
  }
  parts_->registry.SetRecall([&store = *parts_->store](const GenerationKey& key)
                                 -> absl::StatusOr<std::shared_ptr<Generation>> {
    auto stored = store.FindEnded(key);
    if (absl::IsUnavailable(stored.status())) {
      return WithRetry(MakeError(absl::StatusCode::kUnavailable, reason::kStoreFailed,
                                 "stored generations cannot be read at present"),
                       Jittered(absl::Seconds(1)));
    }
    if (!stored.ok()) {
      return nullptr;  // What cannot be read any more is as good as gone.
    }
    auto generation = std::make_shared<Generation>(
        std::move(stored->spec), [](Generation&) {}, stored->create_time);
    generation->RestoreImages(std::move(stored->images));
    generation->RestoreEnd(*stored->end, stored->end_time, std::move(stored->completed));
    return generation;
  });
  auto unfinished = parts_->store->Unfinished();
  if (!unfinished.ok()) {
    return unfinished.status();
  }
  LogInfo("store opened", {{"directory", config_.store.directory},
                           {"unfinished", static_cast<int64_t>(unfinished->size())}});
  for (StoredGeneration& stored : *unfinished) {
    parts_->admission.Restore(std::move(stored));
  }
  return absl::OkStatus();
}

absl::Status Server::OpenSecurity() {
  auto files = SecurityFiles::Open(config_.security, parts_->guard, parts_->metrics);
  if (!files.ok()) {
    return files.status();
  }
  parts_->files = *std::move(files);
  const auto make = [](const TlsPair* pair, std::unique_ptr<TlsCredentials>& credentials) {
    if (pair == nullptr) {
      return absl::OkStatus();
    }
    auto made = TlsCredentials::Make(*pair);
    if (made.ok()) {
      credentials = *std::move(made);
    }
    return made.status();
  };
  absl::Status status = make(parts_->files->tls(), parts_->tls);
  status.Update(make(parts_->files->workers(), parts_->links));
  if (!status.ok()) {
    return status;
  }
  if (parts_->tls != nullptr && parts_->guard.asks_tokens()) {
    parts_->tls->of_listener()->SetAuthMetadataProcessor(MakeReflectionGuard(parts_->guard));
  }
  parts_->files->Watch([this](const TlsPair& pair) { return parts_->tls->Replace(pair); },
                       [this](const TlsPair& pair) { return parts_->links->Replace(pair); });
  return absl::OkStatus();
}

absl::Status Server::OpenPublicListener() {
  ListenerOptions options;
  options.key = "server.listen";
  options.address = config_.listen;
  options.credentials =
      parts_->tls == nullptr ? grpc::InsecureServerCredentials() : parts_->tls->of_listener();
  options.services = {&parts_->images, &parts_->health};
  // Nothing can guard reflection without TLS (see MakeReflectionGuard).
  options.reflection = parts_->tls != nullptr || !parts_->guard.asks_tokens();
  options.max_message_bytes = config_.limits.max_message_bytes;
  options.max_streams = config_.limits.max_streams;
  options.max_connection_age = config_.limits.max_connection_age;
  auto listener = Listen(options);
  if (listener.ok()) {
    parts_->listener = *std::move(listener);
    listen_address_ = parts_->listener.address;
  }
  return listener.status();
}

absl::Status Server::OpenListeners() {
  if (absl::Status status = OpenPublicListener(); !status.ok()) {
    return status;
  }
  struct Plain {
    const char* key;
    const std::string& address;
    grpc::Service* service;
    bool reflection;
    Listener& listener;
    std::string& taken;
  };
  for (const Plain& plain : {Plain{"server.health", config_.health, &parts_->probes, false,
                                   parts_->health_listener, health_address_},
                             Plain{"server.admin", config_.admin, &parts_->admin, true,
                                   parts_->admin_listener, admin_address_}}) {
    if (plain.address.empty()) {
      continue;
    }
    ListenerOptions options;
    options.key = plain.key;
    options.address = plain.address;
    options.credentials = grpc::InsecureServerCredentials();
    options.services = {plain.service};
    options.reflection = plain.reflection;
    auto listener = Listen(options);
    if (!listener.ok()) {
      return listener.status();
    }
    plain.listener = *std::move(listener);
    plain.taken = plain.listener.address;
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

Server::~Server() {
  ticking_ = false;
  parts_->admission.SetDraining(true);
  for (const auto& generation : parts_->registry.Live()) {
    generation->End(DrainedError());
  }
  parts_->fleet.StopAll();
  if (parts_->loader != nullptr) {
    parts_->loader->Stop();
  }
  for (const auto& [name, model] : parts_->models) {
    model->queue().Close();
    model->queue().Interrupt();
  }
  parts_->fleet.Clear();
  parts_->files.reset();
  parts_->health.Shutdown();
  parts_->probes.Shutdown();
  parts_->listener.Stop(kLastWrites);
  parts_->health_listener.Stop(kLastWrites);
  parts_->admin_listener.Stop(kLastWrites);
  parts_->http.reset();
  parts_->images.StopWaiting();
  parts_->timer.reset();
  parts_->exporter.reset();
  if (!socket_directory_.empty()) {
    std::error_code ignored;
    std::filesystem::remove_all(socket_directory_, ignored);
  }
}

void Server::Tick() {
  for (const auto& [name, model] : parts_->models) {
    model->EndHopeless(
        {config_.limits.recovery_timeout, config_.supervision.load_timeout, draining_});
    model->TellPositions();
  }
  parts_->registry.Expire();
  const bool behind = parts_->audit->figures().behind;
  if (audit_behind_.exchange(behind) != behind) {
    LogWarning(behind ? "not ready: the audit log is behind" : "the audit log has caught up");
    UpdateHealth();
  }
  if (ticking_) {
    parts_->timer->After(kTick, [this] { Tick(); });
  }
}

void Server::UpdateHealth() {
  const bool ready = !draining_ && !drained_by_admin_ && !audit_behind_ &&
                     std::all_of(parts_->models.begin(), parts_->models.end(),
                                 [](const auto& entry) { return entry.second->ready(); });
  parts_->health.SetReady(ready);
  parts_->probes.SetReady(ready);
}

admin::v1::DrainResponse Server::DrainForAdmin() {
  LogInfo("drained by an operator");
  drained_by_admin_ = true;
  parts_->admission.SetDraining(true);
  UpdateHealth();
  admin::v1::DrainResponse response;
  response.set_live_generations(static_cast<int64_t>(parts_->registry.live()));
  return response;
}

absl::Status Server::Resume() {
  if (draining_) {
    return MakeError(absl::StatusCode::kUnavailable, reason::kDraining,
                     "the process is about to end");
  }
  LogInfo("resumed by an operator");
  for (Group* group : parts_->fleet.groups()) {
    group->Resume();
  }
  drained_by_admin_ = false;
  parts_->admission.SetDraining(false);
  UpdateHealth();
  return absl::OkStatus();
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
  parts_->probes.SetLive(false);
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
  parts_->admission.SetDraining(true);
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
