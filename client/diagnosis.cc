#include "client/diagnosis.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace patchflow {
namespace {

using nlohmann::json;

constexpr size_t kMaxFileBytes = 16 << 20;
constexpr char kFault[] = "fault: ";
constexpr char kAtTheFault[] = "at the fault: ";

// A rank's line: "rank=1 phase=denoise step=3/20 collectives=41 in=all_gather image=2".
struct RankLine {
  std::string text;
  std::map<std::string, std::string> values;

  std::string Get(const char* key) const {
    const auto found = values.find(key);
    return found == values.end() ? "" : found->second;
  }
  bool works() const {
    const std::string phase = Get("phase");
    return phase != "idle" && phase != "ended" && phase != "loaded";
  }
  bool waits() const { return Get("in") != "-" && !Get("in").empty(); }
};

std::optional<RankLine> ParseRank(const std::string& text) {
  RankLine line{text, {}};
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> pair = absl::StrSplit(word, absl::MaxSplits('=', 1));
    line.values.insert(pair);
  }
  if (line.Get("rank").empty() || line.Get("phase").empty()) return std::nullopt;
  return line;
}

// What a box tells, found once.
struct Facts {
  std::vector<std::string> events;  // Without numbers and times.
  std::vector<RankLine> ranks;      // At the fault, or else at the end.
  std::string fault;                // What the worker itself gave as the reason, or "".
  std::string loss_kind;
  std::string loss_why;
  std::string process_state;
  std::string end_text;
  int signal = 0;
  int status = 0;
  int64_t memory_kills = 0;
};

std::vector<std::string> Strings(const json& box, const char* pointer) {
  const json::json_pointer at(pointer);
  if (!box.contains(at) || !box.at(at).is_array()) return {};
  std::vector<std::string> strings;
  for (const json& entry : box.at(at)) {
    if (entry.is_string()) strings.push_back(entry.get<std::string>());
  }
  return strings;
}

std::string String(const json& box, const char* pointer) {
  const json::json_pointer at(pointer);
  return box.contains(at) && box.at(at).is_string() ? box.at(at).get<std::string>() : "";
}

int64_t Integer(const json& box, const char* pointer) {
  const json::json_pointer at(pointer);
  return box.contains(at) && box.at(at).is_number_integer() ? box.at(at).get<int64_t>() : 0;
}

void ReadRanks(const json& box, Facts& facts) {
  std::vector<std::string> lines;
  for (const std::string& event : facts.events) {
    if (absl::StartsWith(event, kAtTheFault)) lines.push_back(event.substr(sizeof kAtTheFault - 1));
  }
  if (lines.empty()) lines = Strings(box, "/recorder/kept");
  for (const std::string& line : lines) {
    if (auto rank = ParseRank(line)) facts.ranks.push_back(*std::move(rank));
  }
}

Facts FactsOf(const json& box) {
  Facts facts;
  for (const std::string& event : Strings(box, "/recorder/events")) {
    const std::vector<std::string> parts = absl::StrSplit(event, absl::MaxSplits(' ', 2));
    facts.events.push_back(parts.back());
  }
  ReadRanks(box, facts);
  for (const std::string& event : facts.events) {
    if (facts.fault.empty() && absl::StartsWith(event, kFault))
      facts.fault = event.substr(sizeof kFault - 1);
  }
  if (facts.fault.empty()) facts.fault = String(box, "/beat/failure");
  facts.loss_kind = String(box, "/loss/kind");
  facts.loss_why = String(box, "/loss/why");
  facts.process_state = String(box, "/process/state");
  facts.end_text = String(box, "/process/end/text");
  facts.signal = static_cast<int>(Integer(box, "/process/end/signal"));
  facts.status = static_cast<int>(Integer(box, "/process/end/status"));
  facts.memory_kills = Integer(box, "/process/kernel_memory_kills");
  return facts;
}

// The first event that begins like this, or "".
std::string EventLike(const Facts& facts, const std::string& beginning) {
  for (const std::string& event : facts.events) {
    if (absl::StartsWith(event, beginning)) return event;
  }
  return "";
}

// The first "rank N failed: ..." that is not the echo of another's.
std::string FirstFailure(const Facts& facts) {
  for (const std::string& event : facts.events) {
    if (absl::StartsWith(event, "rank ") && absl::StrContains(event, " failed: ") &&
        !absl::StrContains(event, "aborted: ") && !absl::StrContains(event, "another rank failed"))
      return event;
  }
  return "";
}

// " in denoise, after 3 of 20 steps": where the first rank that works is, or the last event.
std::string Where(const Facts& facts) {
  for (const RankLine& rank : facts.ranks) {
    if (!rank.works()) continue;
    const std::string phase = rank.Get("phase");
    const std::vector<std::string> steps = absl::StrSplit(rank.Get("step"), '/');
    std::string where = absl::StrCat(" in ", phase);
    if (phase == "denoise" && steps.size() == 2)
      absl::StrAppend(&where, ", after ", steps[0], " of ", steps[1], " steps");
    if (rank.Get("image") == "1") absl::StrAppend(&where, ", while it warmed up");
    return where;
  }
  if (!facts.events.empty() && absl::StrContains(facts.events.back(), "encode"))
    return " while it encoded an image";
  return facts.ranks.empty() ? "" : " between images";
}

bool Says(const Facts& facts, const char* text) {
  return absl::StrContains(facts.fault, text) || absl::StrContains(FirstFailure(facts), text) ||
         absl::StrContains(facts.loss_why, text);
}

// -- One rule each: true if it knows the cause.

bool IsDevice(const Facts& facts, Diagnosis& found) {
  const bool broken = facts.signal == 0 && facts.status == 3;
  const bool sticky = facts.signal == 0 && facts.status >= 100 && facts.status < 122;
  if (!broken && !sticky && facts.loss_kind != "sick_device") return false;
  const bool sick = broken || facts.loss_kind == "sick_device";
  found.cause = sick ? Cause::kSickDevice : Cause::kDeviceError;
  found.sentence = absl::StrCat(sick ? "A device must not be used again: " : "A device failed: ",
                                facts.loss_why.empty() ? facts.end_text : facts.loss_why, ".");
  found.advice = sick ? "Take the device out of service and look into the kernel's log for Xid "
                        "messages; then start the server again."
                      : "A kernel may have a defect, or the device may be about to break: the "
                        "group is taken out of service if it happens again.";
  found.evidence = {facts.end_text};
  return true;
}

bool IsRefusal(const Facts& facts, Diagnosis& found) {
  if (facts.signal != 0 || facts.status != 2) return false;
  found.cause = Cause::kRefused;
  found.sentence = absl::StrCat("The worker refused its command line, model or layout",
                                facts.fault.empty() ? "" : ": ", facts.fault, ".");
  found.advice = "Mend the configuration: patchflow-server --check looks at all of it.";
  found.evidence = {facts.end_text};
  return true;
}

bool IsCrash(const Facts& facts, Diagnosis& found) {
  const std::string thrown = EventLike(facts, "uncaught exception");
  const std::string signal = EventLike(facts, "fatal signal");
  if (thrown.empty() && signal.empty()) return false;
  found.cause = thrown.empty() ? Cause::kCrash : Cause::kUncaughtException;
  found.sentence =
      absl::StrCat("The worker crashed", Where(facts), ": ", thrown.empty() ? signal : thrown, ".");
  found.advice = "This is a defect: report it with the bundle, in which the stack is.";
  found.evidence = {thrown.empty() ? signal : thrown};
  return true;
}

bool IsOutOfMemory(const Facts& facts, Diagnosis& found) {
  if (!Says(facts, "GPU_OUT_OF_MEMORY") && !Says(facts, "RESOURCE_EXHAUSTED")) return false;
  const std::string failure = FirstFailure(facts);
  found.cause = Cause::kOutOfMemory;
  found.sentence = absl::StrCat("A rank ran out of memory", Where(facts), ": ",
                                failure.empty() ? facts.fault : failure, ".");
  found.advice =
      "Allow smaller images (limits.max_pixels), take a layout that splits the weights (tensor, "
      "shared_text), or give the device to this server alone.";
  found.evidence = {failure.empty() ? facts.fault : failure};
  return true;
}

bool IsNotANumber(const Facts& facts, Diagnosis& found) {
  if (!Says(facts, "NON_FINITE_OUTPUT") && !Says(facts, "not finite")) return false;
  found.cause = Cause::kNotANumber;
  found.sentence =
      absl::StrCat("What a rank computed became NaN or infinite: ",
                   FirstFailure(facts).empty() ? facts.fault : FirstFailure(facts), ".");
  found.advice =
      "If it comes with one request alone, its dtype is too narrow for it (try bfloat16 "
      "or float32); if it comes with many, the weights or the device are not sound.";
  found.evidence = {FirstFailure(facts).empty() ? facts.fault : FirstFailure(facts)};
  return true;
}

// Ranks that wait for each other in different operations, or for one that has gone on.
bool IsStuck(const Facts& facts, Diagnosis& found) {
  if (!Says(facts, "showed no progress") && !Says(facts, "showed no end") &&
      !Says(facts, " waited ") && facts.loss_kind != "stalled" &&
      facts.loss_kind != "load_timeout") {
    return false;
  }
  std::vector<const RankLine*> outside;
  std::vector<const RankLine*> waiting;
  for (const RankLine& rank : facts.ranks) {
    if (rank.works()) (rank.waits() ? waiting : outside).push_back(&rank);
  }
  for (const auto* list : {&outside, &waiting}) {
    for (const RankLine* rank : *list) found.evidence.push_back(rank->text);
  }
  if (outside.empty() && !waiting.empty()) {
    const auto least = std::min_element(facts.ranks.begin(), facts.ranks.end(),
                                        [](const RankLine& a, const RankLine& b) {
                                          return std::atoll(a.Get("collectives").c_str()) <
                                                 std::atoll(b.Get("collectives").c_str());
                                        });
    found.cause = Cause::kSkippedCollective;
    found.sentence = absl::StrCat(
        "The ranks disagree about what they send each other", Where(facts),
        ": each that works waits in an operation that the others do not come to. Rank ",
        least->Get("rank"), ", which has begun the fewest, may have skipped one.");
    found.advice = "This is a defect of a parallel method, or ranks of different builds.";
    return true;
  }
  found.cause = Cause::kHang;
  found.sentence = absl::StrCat(
      outside.empty() ? "The worker hung" : absl::StrCat("Rank ", outside[0]->Get("rank"), " hung"),
      absl::StrContains(facts.fault, "in encode") ? " while it encoded an image" : Where(facts),
      waiting.empty() ? "." : ", outside of any operation between ranks; the others wait for it.");
  found.advice = "The stacks in the bundle say where. A device that hangs may need a reset.";
  found.evidence.push_back(facts.fault);
  return true;
}

bool IsMismatch(const Facts& facts, Diagnosis& found) {
  if (!Says(facts, " meets rank ") && !Says(facts, " where another splits ")) return false;
  found.cause = Cause::kSkippedCollective;
  found.sentence = absl::StrCat(
      "The ranks disagree about what they send each other, as when one "
      "skipped an operation: ",
      facts.fault, ".");
  found.advice = "This is a defect of a parallel method, or ranks of different builds.";
  found.evidence = {FirstFailure(facts)};
  return true;
}

bool IsException(const Facts& facts, Diagnosis& found) {
  const std::string failure = FirstFailure(facts);
  if (failure.empty() && facts.fault.empty()) return false;
  found.cause = Cause::kException;
  found.sentence = absl::StrCat("An exception ended the work", failure.empty() ? Where(facts) : "",
                                ": ", failure.empty() ? facts.fault : failure, ".");
  found.advice = "If its text does not say what to do, report it with the bundle.";
  found.evidence = {failure.empty() ? facts.fault : failure};
  return true;
}

bool IsStopped(const Facts& facts, Diagnosis& found) {
  if (!absl::StartsWith(facts.process_state, "T") && !absl::StartsWith(facts.process_state, "t"))
    return false;
  found.cause = Cause::kStopped;
  found.sentence = absl::StrCat("The worker's process was stopped", Where(facts),
                                ", not ended: by SIGSTOP, a debugger, or whoever freezes "
                                "containers here.");
  found.advice = "Find out who stops processes on this host.";
  found.evidence = {absl::StrCat("state of the process: ", facts.process_state), facts.loss_why};
  return true;
}

bool IsKill(const Facts& facts, Diagnosis& found) {
  if (facts.signal == 0) return false;
  const bool memory = facts.memory_kills > 0;
  found.cause = memory ? Cause::kKilledForMemory : Cause::kKilled;
  found.sentence = absl::StrCat(
      "The worker was killed", Where(facts), " by ", facts.end_text,
      memory ? ", most likely by the kernel: the host's memory, or that of the container, ran out."
             : ", from outside.");
  found.advice = memory ? "Give it more memory, or fewer neighbours."
                        : "Find out who kills processes on this host.";
  found.evidence = {
      facts.end_text,
      absl::StrCat("processes that the kernel killed for memory meanwhile: ", facts.memory_kills)};
  return true;
}

bool IsSilence(const Facts& facts, Diagnosis& found) {
  if (facts.loss_kind != "heartbeat" || facts.process_state.empty()) return false;
  found.cause = Cause::kNoContact;
  found.sentence = absl::StrCat("The worker's process went on", Where(facts),
                                " but did not answer; its state was ", facts.process_state, ".");
  found.advice = "The host may be too busy, or its disk or device does not answer (state D).";
  found.evidence = {facts.loss_why};
  return true;
}

}  // namespace

const char* Name(Cause cause) {
  constexpr const char* kNames[] = {
      "killed",    "killed for memory", "stopped",      "hang",       "skipped collective",
      "exception", "out of memory",     "NaN",          "crash",      "uncaught exception",
      "refused",   "sick device",       "device error", "no contact", "unknown"};
  return kNames[static_cast<size_t>(cause)];
}

Diagnosis Diagnose(const json& box) {
  const Facts facts = FactsOf(box);
  Diagnosis found;
  for (const auto rule : {IsDevice, IsRefusal, IsCrash, IsOutOfMemory, IsNotANumber, IsMismatch,
                          IsStopped, IsStuck, IsException, IsKill, IsSilence}) {
    if (rule(facts, found)) return found;
  }
  found.sentence = absl::StrCat("Nothing in the box says why", facts.loss_why.empty() ? "" : ": ",
                                facts.loss_why, ".");
  found.advice = "Look into the log of the server.";
  return found;
}

absl::StatusOr<json> ReadBox(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file.is_open()) return absl::NotFoundError(absl::StrCat("can't read ", path));
  if (text.size() > kMaxFileBytes)
    return absl::InvalidArgumentError(absl::StrCat(path, ": larger than any black box"));
  if (!text.empty() && text[0] == '{') {
    json box = json::parse(text, nullptr, false);
    if (box.is_object()) return box;
  }
  text.erase(std::remove(text.begin(), text.end(), '\0'), text.end());
  json box = {{"recorder", {{"kept", json::array()}, {"events", json::array()}}}};
  std::vector<std::string> events;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const size_t end = line.find_last_not_of(' ');
    const std::string entry(line.substr(0, end == absl::string_view::npos ? 0 : end + 1));
    if (absl::StartsWith(entry, "- ")) box["recorder"]["kept"].push_back(entry.substr(2));
    if (entry.size() > 8 && std::all_of(entry.begin(), entry.begin() + 8, ::isdigit))
      events.push_back(entry);
  }
  if (events.empty() && box["recorder"]["kept"].empty())
    return absl::InvalidArgumentError(absl::StrCat(path, ": is no black box"));
  std::sort(events.begin(), events.end());
  box["recorder"]["events"] = events;
  return box;
}

}  // namespace patchflow
