#include "server/device_judge.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace patchflow {

namespace {

int StickyErrorOf(const std::optional<ProcessEnd>& end,
                  const std::optional<worker::v1::DeviceFault>& told) {
  if (told.has_value() && told->kind() == worker::v1::DEVICE_FAULT_KIND_CUDA_ERROR) {
    return static_cast<int>(told->code());
  }
  return end.has_value() ? end->sticky_error() : 0;
}

}  // namespace

std::string DeviceJudge::Judge(const std::optional<ProcessEnd>& end,
                               const std::optional<worker::v1::DeviceFault>& told,
                               int failures_before, Clock::time_point now) {
  const int before = failures_before > 0 ? last_error_ : 0;
  last_error_ = StickyErrorOf(end, told);
  while (!errors_.empty() && now - errors_.front().second > ToClock(kWindow)) {
    errors_.pop_front();
  }
  if (last_error_ != 0) {
    errors_.emplace_back(last_error_, now);
  }
  if (told.has_value() && told->kind() != worker::v1::DEVICE_FAULT_KIND_CUDA_ERROR) {
    return absl::StrCat("a device of the group is broken: ", told->text());
  }
  if (end.has_value() && end->sick_device()) {
    return "a device of the group is broken; the log of its worker says which";
  }
  if (last_error_ != 0 && last_error_ == before) {
    return absl::StrCat("a device of the group gave CUDA error ", last_error_,
                        " to two workers in a row");
  }
  const auto same = std::count_if(errors_.begin(), errors_.end(),
                                  [this](const auto& error) { return error.first == last_error_; });
  if (last_error_ != 0 && same >= kTimes) {
    return absl::StrCat("a device of the group gave CUDA error ", last_error_, " to ", same,
                        " workers within ", absl::FormatDuration(kWindow));
  }
  return "";
}

}  // namespace patchflow
