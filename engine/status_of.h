// Exceptions of LibTorch, of communicators and of our own code become statuses here.
#pragma once

#include <exception>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace patchflow {

// For an exception in flight; call inside `catch`. Codes and reasons as Engine::Generate lists
// them.
absl::Status StatusOfException();

template <typename T>
absl::StatusOr<T> StatusOrOfThrowing(const std::function<absl::StatusOr<T>()>& work) {
  try {
    return work();
  } catch (...) {
    return StatusOfException();
  }
}

}  // namespace patchflow
