#include "engine/text_hints.h"

#include <utility>

namespace patchflow {

void TextHints::Offer(std::vector<std::string> texts) {
  const std::lock_guard lock(mutex_);
  hint_ = std::move(texts);
  changed_.notify_all();
}

std::optional<std::vector<std::string>> TextHints::Await(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, stop, [this] { return hint_.has_value(); });
  return stop.stop_requested() ? std::nullopt : std::exchange(hint_, std::nullopt);
}

}  // namespace patchflow
