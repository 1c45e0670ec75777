#include "engine/text_cache.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "engine/device.h"

namespace patchflow {

TextCache::Entries::iterator TextCache::Find(const std::string& text) {
  return std::find_if(entries_.begin(), entries_.end(),
                      [&](const Entry& entry) { return entry.text == text; });
}

Prompt TextCache::Fill(Entries::iterator entry, const Encode& encode,
                       std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  std::optional<Prompt> prompt;
  try {
    prompt = encode(entry->text);
  } catch (...) {
    lock.lock();
    entries_.erase(entry);
    changed_.notify_all();
    throw;
  }
  lock.lock();
  entry->prompt = prompt;
  changed_.notify_all();
  for (auto last = entries_.end(); entries_.size() > kept_ && last != entries_.begin();) {
    --last;
    if (last->prompt.has_value() && last != entry) last = entries_.erase(last);
  }
  return *std::move(prompt);
}

Prompt TextCache::Get(const std::string& text, const Encode& encode) {
  std::unique_lock lock(mutex_);
  Entries::iterator entry;
  changed_.wait(lock, [&] {
    entry = Find(text);
    return entry == entries_.end() || entry->prompt.has_value();
  });
  if (entry == entries_.end()) {
    entries_.push_front({.text = text, .prompt = std::nullopt});
    return Fill(entries_.begin(), encode, lock);
  }
  entries_.splice(entries_.begin(), entries_, entry);
  if (!entry->prepared) return *entry->prompt;
  Prompt own = *entry->prompt;
  own.text_BLD = own.text_BLD.clone();
  own.mask_BL = own.mask_BL.clone();
  WaitForDevice(device_);
  entry->prompt = own;
  entry->prepared = false;
  return own;
}

void TextCache::Prepare(const std::string& text, const Encode& encode) {
  std::unique_lock lock(mutex_);
  if (Find(text) != entries_.end()) return;
  entries_.push_front({.text = text, .prompt = std::nullopt, .prepared = true});
  Fill(entries_.begin(), encode, lock);
}

}  // namespace patchflow
