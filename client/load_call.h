// One request of a load run: sent, followed to its end, left early if that is planned.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/connection.h"
#include "client/generation_stream.h"
#include "client/load_plan.h"
#include "client/load_socket.h"
#include "client/load_timer.h"

namespace patchflow {

// How it went. Times count from when the request was due, so that a load generator that is late
// does not flatter the server; below 0 if it never came to that.
struct LoadOutcome {
  int64_t number = 0;
  absl::Time due;
  double late_s = 0;  // When it was sent.
  double accept_s = -1;
  double wait_s = -1;     // Until a group worked on it.
  double total_s = -1;    // Until the call ended, whatever its end.
  absl::Status status;    // Of the call. DATA_LOSS if the server broke the rules of its stream.
  bool finished = false;  // OK, with all images.
  int attempts = 0;       // As the server says.
  std::vector<v1::ImageHeader> images;
};

// How calls reach the server. Outlives them.
struct LoadTarget {
  const std::vector<Connection>& connections;
  const std::string& address;
  LoadTimer& timer;
};

// A GenerateImages call. The owner holds it until `done` has been called, once, on a thread of
// gRPC or of the timer; a CancelGeneration that is not answered yet holds it longer. To be deleted
// on another thread than gRPC's: the last channel to go joins those (gRPC 1.51).
class LoadCall : public std::enable_shared_from_this<LoadCall>,
                 private grpc::ClientReadReactor<v1::GenerateImagesResponse>,
                 private GenerationEvents {
 public:
  using Done = std::function<void(const PlannedRequest& planned, const LoadOutcome& outcome)>;

  LoadCall(const LoadTarget& target, int64_t number, PlannedRequest planned, absl::Time due,
           Done done);

  // Sends it. A request of kDisconnect first connects, for up to 5 s.
  void Begin();
  // Ends the call at once from this side. Thread-safe.
  void Cancel();

 private:
  void Leave();
  void CallCancel();
  v1::ImageGenerationService::Stub* Stub();
  const Connection& OwnConnection() const;
  double Since() const;

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  void OnAccepted(const std::string& request_id, const v1::Accepted& accepted) override;
  void OnProgress(const v1::Progress& progress) override;
  void OnPreview(const v1::Preview&) override {}
  absl::Status OnImage(const v1::ImageHeader& header, std::string bytes) override;
  void OnCompleted(const v1::Completed& completed) override;

  const LoadTarget& target_;
  PlannedRequest planned_;
  const Done done_;
  std::unique_ptr<CuttableChannel> cuttable_;  // Of kDisconnect.
  std::unique_ptr<v1::ImageGenerationService::Stub> own_stub_;
  grpc::ClientContext context_;
  GenerationStream stream_;
  struct {  // Of kCancelCall.
    grpc::ClientContext context;
    v1::CancelGenerationRequest request;
    v1::CancelGenerationResponse response;
  } cancel_;
  v1::GenerateImagesResponse message_;
  absl::Status broken_;  // By the server.
  LoadOutcome outcome_;
};

}  // namespace patchflow
