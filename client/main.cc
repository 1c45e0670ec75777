#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <exception>
#include <iostream>

#include "absl/synchronization/mutex.h"
#include "client/commands.h"

namespace patchflow {
namespace {

Console StandardConsole() {
  Console console{std::cout, std::cerr};
  winsize size{};
  console.err_is_terminal = isatty(STDERR_FILENO) == 1;
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
    console.columns = size.ws_col;
  return console;
}

}  // namespace
}  // namespace patchflow

int main(int argc, char** argv) {
  // Debian's abseil looks for deadlocks at every lock of gRPC, behind one global lock.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  std::signal(SIGPIPE, SIG_IGN);
  patchflow::Console console = patchflow::StandardConsole();
  try {
    patchflow::Interrupt interrupt;
    const patchflow::SignalWatcher watcher(interrupt);
    return patchflow::RunClient(argc, argv, console, interrupt);
  } catch (const std::exception& error) {
    return patchflow::Fail(console, patchflow::kExitOther, error.what());
  }
}
