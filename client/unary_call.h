// Calls with one answer.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "client/commands.h"
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

// The whole run of a subcommand that is one such call: connects, calls, and hands the answer to
// `show`, which returns the exit status. What fails before is told on the console.
template <typename Request, typename Response, typename Show>
int RunCall(const ConnectionOptions& options, Session& session,
            grpc::Status (v1::ImageGenerationService::Stub::*method)(grpc::ClientContext*,
                                                                     const Request&, Response*),
            const Request& request, const Show& show) {
  const auto connection = Connection::Open(options);
  if (!connection.ok())
    return Fail(session.console, kExitUsage, std::string(connection.status().message()));
  const auto response = Call(*connection, session.interrupt, method, request);
  return response.ok() ? show(*response) : Fail(session.console, response.status());
}

}  // namespace patchflow
