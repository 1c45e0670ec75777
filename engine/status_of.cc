#include "engine/status_of.h"

#include <c10/util/Exception.h>

#include <new>
#include <optional>
#include <string_view>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "engine/engine.h"

namespace patchflow {
namespace {

constexpr char kReasonUrl[] = "patchflow/reason";

// LibTorch has a type for its own allocators' refusals on GPUs alone; the CPU's and the libraries'
// are known by text.
bool MeansOutOfMemory(std::string_view what) {
  for (const char* text : {"DefaultCPUAllocator: can't allocate memory",
                           "DefaultCPUAllocator: not "
                           "enough memory",
                           "CUDA error: out of memory", "CUDA out of memory",
                           "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"}) {
    if (what.find(text) != std::string_view::npos) return true;
  }
  return false;
}

absl::Status OutOfMemory(const char* what) {
  return WithEngineReason(absl::ResourceExhaustedError(what), "GPU_OUT_OF_MEMORY");
}

absl::Status Internal(const char* what) {
  return WithEngineReason(absl::InternalError(what), "INTERNAL");
}

}  // namespace

std::string EngineReasonOf(const absl::Status& status) {
  const absl::optional<absl::Cord> reason = status.GetPayload(kReasonUrl);
  return reason.has_value() ? std::string(*reason) : "";
}

absl::Status WithEngineReason(absl::Status status, std::string_view reason) {
  status.SetPayload(kReasonUrl, absl::Cord(absl::string_view(reason.data(), reason.size())));
  return status;
}

absl::Status StatusOfException() {
  try {
    throw;
  } catch (const Cancelled& error) {
    return WithEngineReason(absl::CancelledError(error.what()), "CANCELLED");
  } catch (const c10::OutOfMemoryError& error) {
    return OutOfMemory(error.what_without_backtrace());
  } catch (const std::bad_alloc& error) {
    return OutOfMemory(error.what());
  } catch (const c10::Error& error) {
    const char* what = error.what_without_backtrace();
    return MeansOutOfMemory(what) ? OutOfMemory(what) : Internal(what);
  } catch (const std::exception& error) {
    return Internal(error.what());
  } catch (...) {
    return Internal("an exception of unknown type");
  }
}

}  // namespace patchflow
