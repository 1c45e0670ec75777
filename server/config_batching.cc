#include "server/config_batching.h"

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

constexpr int kDefaultRows = 4;

}  // namespace

int ReadBatching(MapReader& group, int members) {
  const bool batching = group.Boolean("batching", false);
  const auto rows = static_cast<int>(group.Integer("batch_size", kDefaultRows, 2, kMaxBatchRows));
  if (!batching) {
    if (group.Has("batch_size")) {
      group.Fault("batch_size", "has no meaning without 'batching: true'");
    }
    return 1;
  }
  if (members > 1) {
    group.Fault("batching", absl::StrCat("is for groups of one worker process; this one's ranks "
                                         "are shared by ",
                                         members));
  }
  return rows;
}

}  // namespace patchflow
