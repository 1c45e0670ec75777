// What a Server is made of; for its own files only.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/admin_service.h"
#include "server/admission.h"
#include "server/audit.h"
#include "server/black_box.h"
#include "server/fleet.h"
#include "server/group.h"
#include "server/guard.h"
#include "server/health_service.h"
#include "server/image_service.h"
#include "server/listener.h"
#include "server/metrics.h"
#include "server/metrics_http.h"
#include "server/registry.h"
#include "server/security_files.h"
#include "server/served_model.h"
#include "server/server.h"
#include "server/store.h"
#include "server/timer.h"
#include "server/tracer.h"
#include "server/version_loader.h"
#include "tls/tls_credentials.h"

namespace patchflow {

// In the order of the configuration, each once.
std::vector<std::string> ModelNames(const ServerConfig& config);

// Built from the top, destroyed by ~Server from the bottom.
struct Server::Parts {
  Parts(const ServerConfig& config, std::unique_ptr<AuditLog> audit_log,
        std::unique_ptr<Store> opened_store, TraceExporter::Send send_traces, AdminActions actions);

  std::unique_ptr<Timer> timer;
  Metrics metrics;
  BlackBoxes black_boxes;
  std::unique_ptr<AuditLog> audit;
  std::unique_ptr<Store> store;             // Null: none.
  std::unique_ptr<TraceExporter> exporter;  // Null: none.
  Tracer tracer;
  Guard guard;
  Fleet fleet;
  Admission::Models models;
  Registry registry;
  Admission admission;
  ImageService images;
  HealthService health;  // On the public listener.
  HealthService probes;  // On the listener of its own.
  AdminService admin;
  std::unique_ptr<TlsCredentials> tls;    // Of the public listener. Null: none.
  std::unique_ptr<TlsCredentials> links;  // With workers over TCP. Null: none.
  std::unique_ptr<SecurityFiles> files;
  std::unique_ptr<MetricsHttp> http;
  Listener listener;
  Listener health_listener;
  Listener admin_listener;
  std::unique_ptr<VersionLoader> loader;  // Null until the workers are started.
};

}  // namespace patchflow
