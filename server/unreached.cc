#include "server/unreached.h"

#include "absl/strings/str_cat.h"
#include "server/log.h"

namespace patchflow {
namespace {

constexpr auto kBetween = std::chrono::seconds(5);
constexpr absl::Duration kTimeout = absl::Seconds(1);

}  // namespace

void Unreached::Look(Group& group, WorkerClient& client, const std::string& address) {
  if (Clock::now() < next_) {
    return;
  }
  const absl::Status status = client.Describe(kTimeout).status();
  next_ = Clock::now() + kBetween;
  if (status.ok()) {
    return;
  }
  const std::string why = absl::StrCat(address, " is not reached: ", status.message());
  group.SetFailure(why);
  if (why != told_) {
    LogWarning("worker not reached", {{"group", group.config().name}, {"why", why}});
    told_ = why;
  }
}

}  // namespace patchflow
