#include "server/device_judge.h"

#include "absl/strings/str_cat.h"

namespace patchflow {

std::string DeviceJudge::Judge(const std::optional<ProcessEnd>& end, int failures_before) {
  const int before = failures_before > 0 ? last_error_ : 0;
  last_error_ = end.has_value() ? end->sticky_error() : 0;
  if (end.has_value() && end->sick_device()) {
    return "a device of the group is broken; the log of its worker says which";
  }
  if (last_error_ != 0 && last_error_ == before) {
    return absl::StrCat("a device of the group gave CUDA error ", last_error_,
                        " to two workers in a row");
  }
  return "";
}

}  // namespace patchflow
