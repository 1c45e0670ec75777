// Calls with one answer.
#pragma once

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "client/connection.h"
#include "client/interrupt.h"
#include "client/server_error.h"

namespace patchflow {

// Makes the call, again after failures that Retrier has made again, within the connection's
// timeout. CANCELLED at once when the interrupt comes.
template <typename Request, typename Response>
absl::StatusOr<Response> Call(const Connection& connection, Interrupt& interrupt,
                              grpc::Status (v1::ImageGenerationService::Stub::*method)(
                                  grpc::ClientContext*, const Request&, Response*),
                              const Request& request) {
  const absl::Time deadline = absl::Now() + connection.timeout();
  Retrier retrier(connection.retry(), deadline);
  while (true) {
    grpc::ClientContext context;
    connection.Prepare(context, deadline);
    Response response;
    absl::Status status;
    {
      const Interrupt::Guard guard(interrupt, [&context] { context.TryCancel(); });
      status = StatusOf((connection.stub().*method)(&context, request, &response));
    }
    if (status.ok()) return response;
    if (interrupt.triggered()) return absl::CancelledError("interrupted");
    const auto delay = retrier.NextDelay(status, absl::Now());
    if (!delay) return status;
    interrupt.WaitFor(*delay);
  }
}

}  // namespace patchflow
