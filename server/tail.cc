#include "server/tail.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "absl/strings/str_split.h"

namespace patchflow {
namespace {

constexpr int kPollMs = 50;  // How late Finish() may be noticed.
// What is written at once to a pipe that has room for it does not block, and stays together.
constexpr size_t kPieceBytes = 4096;
constexpr int kRoomMs = 200;

// Gives up what `file` has no room for: a log that nobody reads must not hold up a recovery.
void WriteAll(int file, std::string_view text) {
  while (!text.empty()) {
    pollfd room{file, POLLOUT, 0};
    if (poll(&room, 1, kRoomMs) <= 0) {
      return;
    }
    const ssize_t written = write(file, text.data(), std::min(text.size(), kPieceBytes));
    if (written < 0 && errno != EINTR) {
      return;
    }
    text.remove_prefix(static_cast<size_t>(std::max<ssize_t>(written, 0)));
  }
}

}  // namespace

Tail::Tail(int from, int to) : from_(from), to_(to) {
  fcntl(from_, F_SETFL, O_NONBLOCK);
  thread_ = std::thread([this] { Run(); });
}

Tail::~Tail() {
  Finish();
  close(from_);
}

void Tail::Finish() {
  finishing_ = true;
  if (thread_.joinable()) {
    thread_.join();
  }
}

bool Tail::Pass() {
  char bytes[kPieceBytes];
  const ssize_t size = read(from_, bytes, sizeof bytes);
  if (size <= 0) {
    ended_ = size == 0;
    return size < 0 && errno == EINTR;
  }
  const std::string_view text(bytes, static_cast<size_t>(size));
  line_ += text;
  const size_t whole = line_.size() > kPieceBytes ? line_.size() : line_.rfind('\n') + 1;
  WriteAll(to_, std::string_view(line_).substr(0, whole));
  line_.erase(0, whole);
  const std::lock_guard<std::mutex> lock(mutex_);
  kept_ += text;
  if (kept_.size() > 2 * kMaxBytes) {
    kept_.erase(0, kept_.size() - kMaxBytes);
  }
  return true;
}

void Tail::Run() {
  for (bool last = false; !last && !ended_;) {
    last = finishing_;
    while (Pass()) {
    }
    if (!last && !ended_) {
      pollfd ready{from_, POLLIN, 0};
      poll(&ready, 1, kPollMs);
    }
  }
  WriteAll(to_, line_);
}

std::vector<std::string> Tail::Lines() const {
  std::string text;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    text = kept_.size() > kMaxBytes ? kept_.substr(kept_.size() - kMaxBytes) : kept_;
  }
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

}  // namespace patchflow
