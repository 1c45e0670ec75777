// What the lines of audit logs come to.
#pragma once

#include <cstdint>
#include <istream>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace patchflow {

// What one identity used.
struct Usage {
  int64_t calls = 0;
  int64_t failed = 0;  // Calls that ended with an error.
  int64_t generations = 0;
  int64_t images = 0;
  double megapixel_steps = 0;
  double device_seconds = 0;
  int64_t image_bytes = 0;
};

// Lines of the events "call" and "generation" are added up, those of "lost" say how many lines the
// server had no room for; other events are passed over. Not thread-safe.
class UsageSums {
 public:
  // Places of unreadable lines that are kept.
  static constexpr size_t kPlaces = 10;

  // Leaves out lines whose time is before `since`: UTC as the log writes it, or its beginning;
  // empty for none.
  explicit UsageSums(std::string since) : since_(std::move(since)) {}

  // Adds a whole log, however long; `name` is for places. A line that is none, as a process that
  // was killed leaves one, counts as unreadable; its time is taken to be that of the next readable
  // one. UNAVAILABLE if reading fails.
  absl::Status Add(std::istream& log, const std::string& name);

  const std::map<std::string, Usage>& identities() const { return identities_; }
  int64_t lost_lines() const { return lost_lines_; }
  int64_t unreadable_lines() const { return unreadable_.lines; }
  const std::vector<std::string>& unreadable_places() const { return unreadable_.places; }
  // Whether every line that the server meant to write is in the sums.
  bool whole() const { return lost_lines_ == 0 && unreadable_.lines == 0; }

 private:
  struct Unreadable {
    int64_t lines = 0;
    std::vector<std::string> places;  // The first ones: "FILE:LINE".

    void Note(std::string place);
    void Add(const Unreadable& other);
  };
  // False if it is no line of an audit log; `old` is whether it is left out.
  bool AddLine(const std::string& line, bool& old);

  const std::string since_;
  std::map<std::string, Usage> identities_;
  int64_t lost_lines_ = 0;
  Unreadable unreadable_;
};

}  // namespace patchflow
