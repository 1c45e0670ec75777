// The bytes of a request, as a caller could send them.
#include <google/protobuf/stubs/logging.h>

#include <cstdlib>

#include "server/validate.h"
#include "tests/server/test_model.h"

namespace patchflow {
namespace {

void Check(const v1::GenerateImagesRequest& request) {
  static const v1::Model& model = *new v1::Model(TestModel());
  const auto params = Validate(request, model);
  if (params.ok()) {  // What passed is within the limits.
    const auto& limits = model.limits();
    const int64_t pixels = int64_t{params->width()} * params->height();
    if (params->width() < limits.min_size() || params->height() < limits.min_size() ||
        pixels > limits.max_pixels() || params->count() < 1 ||
        params->count() > limits.max_count() || params->steps() < 1 ||
        params->steps() > limits.max_steps()) {
      std::abort();
    }
    ValidateUnarySize(*params, 4 << 20).IgnoreError();
  }
  ValidateStreamOptions(request.stream(), "stream").IgnoreError();
  ValidateRequestId(request.request_id(), true).IgnoreError();
}

}  // namespace
}  // namespace patchflow

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  google::protobuf::SetLogHandler(nullptr);  // It writes a line for each string that is not UTF-8.
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  patchflow::v1::GenerateImagesRequest request;
  if (request.ParseFromArray(data, static_cast<int>(size))) {
    patchflow::Check(request);
  }
  return 0;
}
