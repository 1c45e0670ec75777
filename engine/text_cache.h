// Encoded texts, the last few that were asked for.
#pragma once

#include <ATen/core/Tensor.h>

#include <condition_variable>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <string>

#include "engine/transformer.h"

namespace patchflow {

// One thread asks for texts, a rank's; another may prepare some for it, in another stream of the
// device. No text is encoded by both: whoever comes second waits for the first, or has it.
class TextCache {
 public:
  // Of one text: one row.
  using Encode = std::function<Prompt(const std::string& text)>;

  TextCache(size_t kept, at::Device device) : kept_(kept), device_(device) {}

  // `text` as it is kept, as the other thread is about to have it, or from `encode`. What was
  // prepared is copied in the calling thread's stream, and that is waited for: so nothing of the
  // other stream's memory is read later. Throws what `encode` does.
  Prompt Get(const std::string& text, const Encode& encode);
  // `encode` returns when the device has done all of it. Throws what it does, and nothing is kept.
  void Prepare(const std::string& text, const Encode& encode);

 private:
  struct Entry {
    std::string text;
    std::optional<Prompt> prompt;  // Nothing while it is encoded.
    bool prepared = false;         // In the other stream.
  };
  using Entries = std::list<Entry>;

  Entries::iterator Find(const std::string& text);
  // Encodes `entry`, which holds nothing yet, without the lock.
  Prompt Fill(Entries::iterator entry, const Encode& encode, std::unique_lock<std::mutex>& lock);

  const size_t kept_;
  const at::Device device_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Entries entries_;  // Used last first.
};

}  // namespace patchflow
