#include "server/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"

namespace patchflow {
namespace {

// Fields of /proc/self/stat, from the third (state), which follows the name in
// parentheses.
std::vector<double> Stat() {
  std::ifstream file("/proc/self/stat");
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  std::istringstream fields(text.substr(std::min(text.size(), text.rfind(')') + 1)));
  std::vector<double> values;
  std::string field;
  while (fields >> field) {
    double value = 0;
    (void)absl::SimpleAtod(field, &value);
    values.push_back(value);
  }
  return values;
}

// Where proc(5) counts from 1, Stat() counts from its third.
constexpr size_t kUserTicks = 14 - 3;
constexpr size_t kSystemTicks = 15 - 3;
constexpr size_t kThreads = 20 - 3;
constexpr size_t kStartTicks = 22 - 3;
constexpr size_t kVirtualBytes = 23 - 3;
constexpr size_t kResidentPages = 24 - 3;

double StartTime(const std::vector<double>& stat) {
  double uptime = 0;
  std::ifstream("/proc/uptime") >> uptime;
  const double started = stat[kStartTicks] / static_cast<double>(sysconf(_SC_CLK_TCK));
  return absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()) - uptime + started;
}

}  // namespace

ProcessMetrics::ProcessMetrics(prometheus::Registry& registry) {
  const auto gauge = [&](const char* name, const char* help) {
    return &prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
  };
  cpu_ = &prometheus::BuildCounter()
              .Name("process_cpu_seconds_total")
              .Help("Time of all threads on a CPU.")
              .Register(registry)
              .Add({});
  resident_ = gauge("process_resident_memory_bytes", "Memory in use.");
  virtual_ = gauge("process_virtual_memory_bytes", "Address space in use.");
  open_files_ = gauge("process_open_fds", "Open file descriptors.");
  max_files_ = gauge("process_max_fds", "File descriptors that may be open.");
  threads_ = gauge("process_threads", "Threads.");
  auto* start = gauge("process_start_time_seconds", "Start, since the Unix epoch.");
  if (const auto stat = Stat(); stat.size() > kResidentPages) {
    start->Set(StartTime(stat));
  }
}

void ProcessMetrics::Refresh() {
  const std::vector<double> stat = Stat();
  if (stat.size() > kResidentPages) {
    const double seconds =
        (stat[kUserTicks] + stat[kSystemTicks]) / static_cast<double>(sysconf(_SC_CLK_TCK));
    cpu_->Increment(std::max(0.0, seconds - cpu_->Value()));
    resident_->Set(stat[kResidentPages] * static_cast<double>(sysconf(_SC_PAGESIZE)));
    virtual_->Set(stat[kVirtualBytes]);
    threads_->Set(stat[kThreads]);
  }
  std::error_code error;
  std::filesystem::directory_iterator files("/proc/self/fd", error);
  if (!error) {
    open_files_->Set(static_cast<double>(std::distance(files, {})) - 1);  // The one that looks.
  }
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    max_files_->Set(static_cast<double>(limit.rlim_cur));
  }
}

}  // namespace patchflow
