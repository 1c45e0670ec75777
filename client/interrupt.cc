#include "client/interrupt.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

namespace patchflow {
namespace {

sigset_t EndSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

int Checked(int descriptor, const char* call) {
  if (descriptor < 0) throw std::system_error(errno, std::generic_category(), call);
  return descriptor;
}

}  // namespace

void Interrupt::Trigger() {
  const std::lock_guard lock(mutex_);
  if (triggered_) return;
  triggered_ = true;
  changed_.notify_all();
  if (action_) action_();
}

bool Interrupt::triggered() const {
  const std::lock_guard lock(mutex_);
  return triggered_;
}

bool Interrupt::WaitFor(absl::Duration duration) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoMicroseconds(duration),
                           [this] { return triggered_; });
}

Interrupt::Guard::Guard(Interrupt& interrupt, std::function<void()> action)
    : interrupt_(interrupt) {
  const std::lock_guard lock(interrupt_.mutex_);
  interrupt_.action_ = std::move(action);
  if (interrupt_.triggered_) interrupt_.action_();
}

Interrupt::Guard::~Guard() {
  const std::lock_guard lock(interrupt_.mutex_);
  interrupt_.action_ = nullptr;
}

SignalWatcher::SignalWatcher(Interrupt& interrupt) : interrupt_(interrupt) {
  const sigset_t set = EndSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signals_ = Checked(signalfd(-1, &set, SFD_CLOEXEC), "signalfd");
  stop_ = Checked(eventfd(0, EFD_CLOEXEC), "eventfd");
  thread_ = std::jthread([this] { Watch(); });
}

SignalWatcher::~SignalWatcher() {
  eventfd_write(stop_, 1);
  thread_.join();
  close(stop_);
  close(signals_);
}

void SignalWatcher::Watch() {
  while (true) {
    pollfd ready[] = {{signals_, POLLIN, 0}, {stop_, POLLIN, 0}};
    if (poll(ready, 2, -1) < 0) continue;
    if (ready[1].revents != 0) return;
    signalfd_siginfo info;
    if (read(signals_, &info, sizeof info) != sizeof info) continue;
    if (interrupt_.triggered()) {
      const int number = static_cast<int>(info.ssi_signo);
      const sigset_t set = EndSignals();
      signal(number, SIG_DFL);
      pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
      raise(number);
    }
    interrupt_.Trigger();
  }
}

}  // namespace patchflow
