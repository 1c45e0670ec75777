// Whether a request can be served: every wrong field, in one answer.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "patchflow/v1/image_generation.pb.h"

namespace patchflow {

// The parameters as they will be used: the request's, and the model's defaults where it has none.
// The seed is 0 unless the request has one: whoever admits it draws it.
//
// INVALID_ARGUMENT with a BadRequest of all wrong fields; reason LIMIT_EXCEEDED if every one of
// them is well-formed and only above a limit of the model or the server, else INVALID_REQUEST.
// model.limits are the limits that apply.
absl::StatusOr<v1::EffectiveParams> Validate(const v1::GenerateImagesRequest& request,
                                             const v1::Model& model);

// LIMIT_EXCEEDED unless the images surely fit into one message of `max_unary_bytes`. Counts raw
// pixels, which no format exceeds by more than the 64 KiB that the default leaves below gRPC's 4
// MiB.
absl::Status ValidateUnarySize(const v1::EffectiveParams& params, int64_t max_unary_bytes);

// Progress for every step and chunks of 256 KiB where the client did not choose. Wrong fields are
// reported below `prefix`.
absl::Status ValidateStreamOptions(const v1::StreamOptions& options, const std::string& prefix);

// Of a request that waits for, or replays, what another began, everything that may differ.
absl::Status ValidateJoin(const v1::GenerateImagesRequest& request);

// A request_id: 1 to 64 of [A-Za-z0-9._-]. `required`: whether it may be empty.
absl::Status ValidateRequestId(const std::string& request_id, bool required);

}  // namespace patchflow
