#include "worker/black_box.h"

#include <cxxabi.h>
#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <exception>
#include <typeinfo>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace patchflow {
namespace {

constexpr int kStackSignal = SIGUSR2;
constexpr int kFatalSignals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS};
constexpr int kMaxFrames = 48;
constexpr size_t kAlternateStackBytes = 64 << 10;
constexpr absl::Duration kStackTimeout = absl::Milliseconds(100);
constexpr size_t kTableBytes =
    BlackBox::kLineBytes * (BlackBox::kKeptLines + BlackBox::kEventLines);

std::atomic<BlackBox*> the_box = nullptr;
std::atomic<int> stacks_written = 0;

// Text in a fixed place: no memory is taken, so that signal handlers can use it.
class Text {
 public:
  Text& operator<<(std::string_view part) {
    const size_t bytes = std::min(part.size(), sizeof(bytes_) - size_);
    std::memcpy(bytes_ + size_, part.data(), bytes);
    size_ += bytes;
    return *this;
  }
  Text& Number(uint64_t value, int base = 10, int digits = 1) {
    char reversed[32];
    int count = 0;
    for (; value > 0 || count < digits; value /= static_cast<uint64_t>(base)) {
      reversed[count++] = "0123456789abcdef"[value % static_cast<uint64_t>(base)];
    }
    std::reverse(reversed, reversed + count);
    return *this << std::string_view(reversed, static_cast<size_t>(count));
  }
  std::string_view view() const { return {bytes_, size_}; }
  // Fills a line of `to`: control characters become spaces.
  void CopyLine(char* to) const {
    size_t i = 0;
    for (; i < size_; ++i) to[i] = static_cast<unsigned char>(bytes_[i]) < ' ' ? ' ' : bytes_[i];
    std::memset(to + i, ' ', BlackBox::kLineBytes - 1 - i);
    to[BlackBox::kLineBytes - 1] = '\n';
  }

 private:
  char bytes_[BlackBox::kLineBytes - 1];
  size_t size_ = 0;
};

std::string_view SignalName(int number) {
  switch (number) {
    case SIGSEGV:
      return "SIGSEGV";
    case SIGBUS:
      return "SIGBUS";
    case SIGILL:
      return "SIGILL";
    case SIGFPE:
      return "SIGFPE";
    case SIGABRT:
      return "SIGABRT";
    case SIGSYS:
      return "SIGSYS";
    default:
      return "?";
  }
}

// Notes the signal, then lets it end the process as if nobody had caught it.
void OnFatalSignal(int number, siginfo_t* info, void* /*context*/) {
  static std::atomic<bool> first = true;
  BlackBox* box = the_box;
  if (box != nullptr && first.exchange(false)) {
    Text text;
    text << "fatal signal ";
    text.Number(static_cast<uint64_t>(number)) << " (" << SignalName(number) << ")";
    if (number == SIGSEGV || number == SIGBUS) {
      text << " at address 0x";
      text.Number(reinterpret_cast<uint64_t>(info->si_addr), 16);
    }
    text << " in thread ";
    text.Number(static_cast<uint64_t>(syscall(SYS_gettid)));
    box->Note(text.view());
    box->WriteStack("where the signal came");
  }
  signal(number, SIG_DFL);
  raise(number);
}

void OnStackSignal(int /*number*/) {
  const int saved = errno;
  if (BlackBox* box = the_box; box != nullptr) box->WriteStack("");
  ++stacks_written;
  errno = saved;
}

[[noreturn]] void OnTerminate() {
  BlackBox* box = the_box;
  if (const std::exception_ptr thrown = std::current_exception(); box != nullptr && thrown) {
    std::string what = "no text";
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& error) {
      what = error.what();
    } catch (...) {
    }
    const std::type_info* type = abi::__cxa_current_exception_type();
    int status = 0;
    char* name =
        type == nullptr ? nullptr : abi::__cxa_demangle(type->name(), nullptr, nullptr, &status);
    box->Note(absl::StrCat("uncaught exception ", name == nullptr ? "" : name, ": ", what));
  }
  std::abort();
}

}  // namespace

absl::StatusOr<std::unique_ptr<BlackBox>> BlackBox::Create(const std::string& path) {
  std::rename(path.c_str(), (path + ".last").c_str());
  const int file = open(path.c_str(), O_CREAT | O_EXCL | O_RDWR | O_APPEND | O_CLOEXEC, 0600);
  if (file < 0 || ftruncate(file, kTableBytes) != 0) {
    const std::string why = std::strerror(errno);
    if (file >= 0) close(file);
    return absl::UnavailableError(absl::StrCat("can't write the black box ", path, ": ", why));
  }
  void* lines = mmap(nullptr, kTableBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (lines == MAP_FAILED) {
    close(file);
    return absl::UnavailableError(absl::StrCat("can't map ", path, ": ", std::strerror(errno)));
  }
  return std::unique_ptr<BlackBox>(new BlackBox(file, static_cast<char*>(lines)));
}

BlackBox::~BlackBox() {
  if (the_box == this) the_box = nullptr;
  munmap(lines_, kTableBytes);
  close(file_);
}

void BlackBox::Note(std::string_view text) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const uint64_t number = events_.fetch_add(1);
  Text line;
  line.Number(number, 10, 8) << " ";
  line.Number(static_cast<uint64_t>(now.tv_sec)) << ".";
  line.Number(static_cast<uint64_t>(now.tv_nsec / 1000), 10, 6) << " " << text;
  line.CopyLine(Line(kKeptLines + number % kEventLines));
}

void BlackBox::Keep(int line, std::string_view text) {
  if (line < 0 || line >= static_cast<int>(kKeptLines)) return;
  Text kept;
  kept << "- " << text;
  const std::lock_guard lock(mutex_);
  kept.CopyLine(Line(static_cast<size_t>(line)));
}

void BlackBox::WatchThread(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const int id = static_cast<int>(syscall(SYS_gettid));
  for (auto& [known_id, known_name] : threads_) {
    if (known_name == name) {
      known_id = id;
      return;
    }
  }
  threads_.emplace_back(id, name);
}

void BlackBox::WriteStack(std::string_view title) {
  struct stat state {};
  if (fstat(file_, &state) != 0 ||
      static_cast<size_t>(state.st_size) > kTableBytes + kMaxStackBytes) {
    return;
  }
  if (!title.empty()) {
    Text text;
    text << "stack: " << title << "\n";
    if (write(file_, text.view().data(), text.view().size()) < 0) return;
  }
  void* frames[kMaxFrames];
  backtrace_symbols_fd(frames, backtrace(frames, kMaxFrames), file_);
}

void BlackBox::Snapshot(std::string_view why) {
  if (snapshot_.exchange(true)) return;
  Note(absl::StrCat("fault: ", std::string(why)));
  std::vector<std::pair<int, std::string>> threads;
  {
    const std::lock_guard lock(mutex_);
    threads = threads_;
    for (size_t line = kFirstRankLine; line < kKeptLines; ++line) {
      const std::string_view kept(Line(line), kLineBytes);
      if (kept[0] != '-') continue;
      Note(absl::StrCat("at the fault: ",
                        std::string(kept.substr(2, kept.find_last_not_of(" \n") - 1))));
    }
  }
  if (the_box != this) return;
  for (const auto& [id, name] : threads) {
    const std::string title = absl::StrCat("stack: ", name, "\n");
    const int before = stacks_written;
    if (write(file_, title.data(), title.size()) < 0 ||
        syscall(SYS_tgkill, getpid(), id, kStackSignal) != 0) {
      continue;  // The thread has ended.
    }
    const absl::Time until = absl::Now() + kStackTimeout;
    while (stacks_written == before && absl::Now() < until) absl::SleepFor(absl::Milliseconds(1));
  }
}

void BlackBox::CatchFaults() {
  the_box = this;
  void* frame = nullptr;
  backtrace(&frame, 1);  // Loads what it needs now; in a handler it could not.
  // Of this thread alone; others write on their own stack.
  static char alternate_stack[kAlternateStackBytes];
  const stack_t stack = {.ss_sp = alternate_stack, .ss_flags = 0, .ss_size = kAlternateStackBytes};
  sigaltstack(&stack, nullptr);
  struct sigaction action {};
  action.sa_sigaction = OnFatalSignal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (const int number : kFatalSignals) sigaction(number, &action, nullptr);
  struct sigaction on_stack {};
  on_stack.sa_handler = OnStackSignal;
  on_stack.sa_flags = SA_RESTART;
  sigaction(kStackSignal, &on_stack, nullptr);
  std::set_terminate(OnTerminate);
}

}  // namespace patchflow
