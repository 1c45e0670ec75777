#include "server/config_outputs.h"

#include "server/config_values.h"

namespace patchflow {

AuditConfig ReadAudit(MapReader reader, const std::string& directory) {
  AuditConfig audit;
  audit.file = ReadPath(reader, "file", directory);
  audit.max_bytes = reader.Integer("max_bytes", audit.max_bytes, 4096, int64_t{1} << 40);
  audit.max_files = static_cast<int>(reader.Integer("max_files", audit.max_files, 1, 1000));
  audit.max_delay =
      reader.Duration("max_delay", audit.max_delay, absl::Milliseconds(10), absl::Hours(1));
  audit.sync = reader.Boolean("sync", audit.sync);
  reader.Finish();
  return audit;
}

StoreConfig ReadStore(MapReader reader, const std::string& directory) {
  StoreConfig store;
  store.directory = ReadPath(reader, "directory", directory);
  store.max_bytes = reader.Integer("max_bytes", store.max_bytes, 1 << 20, int64_t{1} << 44);
  store.max_age = reader.Duration("max_age", store.max_age, absl::Seconds(1), 365 * kDay);
  store.max_wait =
      reader.Duration("max_wait", store.max_wait, absl::Milliseconds(10), absl::Minutes(1));
  reader.Finish();
  return store;
}

BlackBoxConfig ReadBlackBox(MapReader reader, const std::string& directory) {
  BlackBoxConfig box;
  box.directory = ReadPath(reader, "directory", directory);
  box.max_files = static_cast<int>(reader.Integer("max_files", box.max_files, 1, 10000));
  box.max_bytes = reader.Integer("max_bytes", box.max_bytes, 1 << 20, int64_t{1} << 40);
  reader.Finish();
  return box;
}

TracingConfig ReadTracing(MapReader reader, const std::string& directory) {
  TracingConfig tracing;
  tracing.otlp = reader.String("otlp", "");
  CheckAddress(reader, "otlp", tracing.otlp);
  tracing.ca = ReadPath(reader, "ca", directory);
  tracing.service_name = reader.String("service_name", tracing.service_name);
  tracing.sample_ratio = reader.Number("sample_ratio", tracing.sample_ratio, 0, 1);
  tracing.queue = static_cast<int>(reader.Integer("queue", tracing.queue, 1, 1000000));
  tracing.recent = static_cast<int>(reader.Integer("recent", tracing.recent, 0, 100000));
  for (const char* key : {"ca", "service_name", "sample_ratio", "queue"}) {
    if (reader.Has(key) && tracing.otlp.empty()) {
      reader.Fault(key, "has no meaning without 'otlp'");
    }
  }
  reader.Finish();
  return tracing;
}

}  // namespace patchflow
