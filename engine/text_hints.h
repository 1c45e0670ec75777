// Texts that may be asked for soon: a letter box with room for one hint.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

namespace patchflow {

// Thread-safe.
class TextHints {
 public:
  // Replaces a hint that nobody has taken yet. Does not wait.
  void Offer(std::vector<std::string> texts);
  // Waits for a hint and takes it; nothing once `stop` is requested.
  std::optional<std::vector<std::string>> Await(const std::stop_token& stop);

 private:
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::optional<std::vector<std::string>> hint_;
};

}  // namespace patchflow
