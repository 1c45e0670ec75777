// The door: a request becomes an accepted generation, or an error at once.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "patchflow/v1/image_generation.pb.h"
#include "server/audit.h"
#include "server/config.h"
#include "server/generation.h"
#include "server/identity.h"
#include "server/rate_limiter.h"
#include "server/registry.h"
#include "server/served_model.h"
#include "server/store.h"
#include "server/timer.h"
#include "server/tracer.h"

namespace patchflow {

// Thread-safe; waits for nothing but a disk (see WaitsForDisk()).
class Admission {
 public:
  using Models = std::map<std::string, std::unique_ptr<ServedModel>>;

  // Everything must outlive this.
  struct Parts {
    Models& models;
    Registry& registry;
    Timer& timer;
    AuditLog& audit;
    Store* store;              // Null: generations do not outlive the process.
    Tracer* tracer = nullptr;  // Null: no traces.
  };
  Admission(const Parts& parts, const Limits& limits);

  // What a call brings besides its request.
  struct Caller {
    bool unary = false;
    std::optional<Clock::time_point> deadline;
    std::shared_ptr<Generation::Subscriber> subscriber;
    Identity identity;
    TraceOrigin trace = {};
  };
  // The generation, queued or joined, with the caller subscribed to it for as long as its `timeout`
  // says. What is joined or replayed needs no group that serves. Any status of serving.md's table
  // that can be known now; nothing is left behind then.
  absl::StatusOr<std::shared_ptr<Generation>> Admit(const v1::GenerateImagesRequest& request,
                                                    const Caller& caller);
  // Whether Admit() may wait for a disk, for StoreConfig::max_wait at most, to store the request.
  // It never waits for anything else but, for as long, what the store knows of the request_id.
  bool WaitsForDisk(const v1::GenerateImagesRequest& request) const;
  // All checks and the answer, but nothing runs (validate_only).
  absl::StatusOr<GenerationSpec> Check(const v1::GenerateImagesRequest& request,
                                       const Caller& caller);

  // Takes up again what was accepted in an earlier life of the server and had not ended: it waits
  // for its missing images, or ends as its timeout, or a model that is gone, demands. Before there
  // are calls.
  void Restore(StoredGeneration stored);

  // NOT_FOUND / MODEL_NOT_FOUND; INVALID_REQUEST if it is empty and there are several.
  absl::StatusOr<ServedModel*> FindModel(const std::string& name, const std::string& field) const;

  // While draining, everything new is refused with UNAVAILABLE / DRAINING.
  void SetDraining(bool draining) { draining_ = draining; }
  const std::string& server_instance() const { return server_instance_; }

 private:
  struct Draft {
    ServedModel* model;
    std::shared_ptr<const worker::v1::DescribeResponse> plan;
    GenerationSpec spec;
    bool seed_drawn = false;
    TraceOrigin trace = {};
    std::shared_ptr<const void> entered = nullptr;  // See ServedModel::Enter().
  };
  // Validated, with everything but its place in the queue.
  absl::StatusOr<Draft> Prepare(const v1::GenerateImagesRequest& request, const Caller& caller);
  static void Place(const ServedModel& model, GenerationSpec& spec,
                    const std::vector<std::shared_ptr<Generation>>& ahead);
  absl::Status CheckRights(const v1::GenerateImagesRequest& request, const Caller& caller);
  static absl::Status CheckDeadline(ServedModel& model, const GenerationSpec& spec,
                                    const std::vector<std::shared_ptr<Generation>>& ahead);
  // Puts it into the store, if there is one. UNAVAILABLE / STORE_FAILED.
  absl::Status Keep(const std::shared_ptr<Generation>& generation, Clock::time_point until);
  // It goes on without subscribers until then, and ends then unless there are some.
  void Detach(const std::shared_ptr<Generation>& generation, Clock::time_point until);
  absl::Status Enqueue(const Draft& draft, const std::shared_ptr<Generation>& generation,
                       const v1::GenerateImagesRequest& request, Clock::time_point until);
  // What a request of its id began, with the caller subscribed to it; null if there is none, or it
  // is to be run anew.
  absl::StatusOr<std::shared_ptr<Generation>> FindToJoin(const v1::GenerateImagesRequest& request,
                                                         const Caller& caller);
  absl::StatusOr<std::shared_ptr<Generation>> Join(const std::shared_ptr<Generation>& generation,
                                                   const v1::GenerateImagesRequest& request,
                                                   const Caller& caller);
  std::shared_ptr<Generation> MakeOf(ServedModel* model, GenerationSpec spec,
                                     absl::Time create_time, const TraceOrigin& trace = {});
  std::shared_ptr<Generation> Make(const Draft& draft, std::optional<uint64_t> seed);
  void OnEnd(ServedModel* model, Generation& generation);

  Models& models_;
  Registry& registry_;
  Timer& timer_;
  AuditLog& audit_;
  Store* const store_;
  Tracer* const tracer_;
  const Limits limits_;
  const std::string server_instance_;
  RateLimiter rates_;
  std::atomic<bool> draining_ = false;
  std::atomic<bool> warned_of_no_store_ = false;
};

}  // namespace patchflow
