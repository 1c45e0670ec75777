// One fault after another, each while an image is made, and what came of it.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/chaos_server.h"
#include "client/connection.h"
#include "client/interrupt.h"

namespace patchflow {

// In the words of worker/fault_injection.h.
extern const std::vector<std::string> kFaultKinds;
extern const std::vector<std::string> kFaultPlaces;

// Whether there is such a thing: no rank sends anything to another while it loads or encodes, so
// that no operation can be skipped or bring NaN there.
bool FaultIsPossible(const std::string& kind, const std::string& place);
// What `patchflow diagnose` is to call it.
std::string NameOfFault(const std::string& kind);

struct ChaosOutcome {
  std::string kind;
  std::string place;
  absl::Duration detection;  // From the fault until the server gave its worker up.
  absl::Duration recovery;   // From then until a worker was ready again.
  std::string request;       // "same bytes", or how it ended.
  bool request_ok = false;
  std::string diagnosis;
  bool named = false;  // Rightly.
  bool ok() const { return request_ok && named; }
};

struct ChaosOptions {
  int steps = 4;
  int rank = 1;                                 // That suffers; encoding is rank 0's.
  absl::Duration timeout = absl::Seconds(120);  // Of each wait.
};

// Orders the fault, asks for an image meanwhile, waits until the server serves again, asks for the
// same image once more and compares. A request that ran when memory ran out or NaN came ends with
// that error, by design: it is not tried again. An error if a wait takes too long.
absl::StatusOr<ChaosOutcome> RunFault(const ChaosServer& server, const Connection& connection,
                                      Interrupt& interrupt, const ChaosOptions& options,
                                      const std::string& kind, const std::string& place);

// The table in Markdown: its head, a row, all of it with a row for each kind of fault, and what it
// comes to.
std::string ChaosHead();
std::string ChaosRow(const ChaosOutcome& outcome);
std::string ChaosMatrix(const std::vector<ChaosOutcome>& outcomes);
std::string ChaosSum(const std::vector<ChaosOutcome>& outcomes);

}  // namespace patchflow
