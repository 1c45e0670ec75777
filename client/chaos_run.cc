#include "client/chaos_run.h"

#include <signal.h>

#include <algorithm>
#include <future>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/diagnosis.h"
#include "client/generation_stream.h"
#include "client/server_error.h"

namespace patchflow {
namespace {

// The bytes of all images of a stream.
class Collector final : public GenerationEvents {
 public:
  void OnAccepted(const std::string&, const v1::Accepted&) override {}
  void OnProgress(const v1::Progress&) override {}
  void OnPreview(const v1::Preview&) override {}
  absl::Status OnImage(const v1::ImageHeader&, std::string bytes) override {
    bytes_ += bytes;
    return absl::OkStatus();
  }
  void OnCompleted(const v1::Completed&) override {}
  std::string bytes_;
};

absl::StatusOr<std::string> Draw(const Connection& connection, Interrupt& interrupt,
                                 const v1::GenerateImagesRequest& request) {
  grpc::ClientContext context;
  connection.Prepare(context, absl::Now() + connection.timeout());
  const Interrupt::Guard guard(interrupt, [&context] { context.TryCancel(); });
  Collector collector;
  GenerationStream stream("", StreamContent::kImages, collector);
  const auto reader = connection.stub().GenerateImages(&context, request);
  v1::GenerateImagesResponse message;
  absl::Status broken;
  while (broken.ok() && reader->Read(&message)) broken = stream.Take(message);
  if (!broken.ok()) context.TryCancel();
  const absl::Status status = StatusOf(reader->Finish());
  if (!broken.ok()) return broken;
  if (!status.ok()) return status;
  if (absl::Status whole = stream.Finish(); !whole.ok()) return whole;
  return collector.bytes_;
}

std::string ReasonOf(const absl::Status& status) {
  const auto info = DetailOf<google::rpc::ErrorInfo>(status);
  return info.has_value() ? info->reason() : absl::StatusCodeToString(status.code());
}

// The reason with which a request that ran then is to end; "" if it is to succeed.
std::string FinalReason(const std::string& kind, const std::string& place) {
  if (place == "load" || place == "warm-up") return "";
  if (kind == "oom") return "GPU_OUT_OF_MEMORY";
  if (kind == "nan") return "NON_FINITE_OUTPUT";
  return "";
}

void JudgeRequest(const absl::StatusOr<std::string>& disturbed,
                  const absl::StatusOr<std::string>& undisturbed, ChaosOutcome& outcome) {
  const std::string expected = FinalReason(outcome.kind, outcome.place);
  if (!undisturbed.ok()) {
    outcome.request = absl::StrCat("then ", ReasonOf(undisturbed.status()));
  } else if (!disturbed.ok()) {
    outcome.request = absl::StrCat("ended: ", ReasonOf(disturbed.status()));
    outcome.request_ok = ReasonOf(disturbed.status()) == expected;
  } else {
    const bool same = *disturbed == *undisturbed;
    outcome.request = same ? "same bytes" : "OTHER BYTES";
    outcome.request_ok = same && expected.empty();
  }
}

}  // namespace

const std::vector<std::string> kFaultKinds = {"kill", "stop", "hang", "throw",
                                              "skip", "oom",  "nan"};
const std::vector<std::string> kFaultPlaces = {"load", "warm-up", "text",
                                               "step", "decode",  "encode"};

bool FaultIsPossible(const std::string& kind, const std::string& place) {
  return (kind != "skip" && kind != "nan") || (place != "load" && place != "encode");
}

std::string NameOfFault(const std::string& kind) {
  static const std::map<std::string, Cause> causes = {
      {"kill", Cause::kKilled},     {"stop", Cause::kStopped},
      {"hang", Cause::kHang},       {"throw", Cause::kException},
      {"oom", Cause::kOutOfMemory}, {"skip", Cause::kSkippedCollective},
      {"nan", Cause::kNotANumber}};
  return Name(causes.at(kind));
}

absl::StatusOr<ChaosOutcome> RunFault(const ChaosServer& server, const Connection& connection,
                                      Interrupt& interrupt, const ChaosOptions& options,
                                      const std::string& kind, const std::string& place) {
  ChaosOutcome outcome{.kind = kind,
                       .place = place,
                       .detection = {},
                       .recovery = {},
                       .request = "",
                       .diagnosis = ""};
  v1::GenerateImagesRequest request;
  // Another prompt each time, as the text of one that is known is not encoded again.
  request.mutable_prompt()->set_text(absl::StrCat("a red star, ", kind, " at ", place));
  request.mutable_sampling()->set_steps(options.steps);
  request.mutable_sampling()->set_seed(7);
  const size_t from = server.num_lines();
  const int rank = place == "encode" ? 0 : options.rank;
  if (absl::Status s = server.Order(absl::StrCat(kind, " ", place, " ", rank)); !s.ok()) return s;
  if (place == "load" || place == "warm-up") kill(server.worker_pid(), SIGKILL);
  auto disturbed =
      std::async(std::launch::async, [&] { return Draw(connection, interrupt, request); });
  const auto injected = server.Await("fault injected", from, options.timeout);
  if (!injected.ok()) {
    server.Withdraw();
    return injected.status();
  }
  const auto box = server.Await("black box written", injected->number, options.timeout);
  if (!box.ok()) return box.status();
  const auto lost = server.Await("worker lost", injected->number, options.timeout);
  if (!lost.ok()) return lost.status();
  const auto ready = server.Await("group ready", lost->number, options.timeout);
  if (!ready.ok()) return ready.status();
  outcome.detection = lost->time - injected->time;
  outcome.recovery = ready->time - lost->time;
  const absl::StatusOr<std::string> first = disturbed.get();
  JudgeRequest(first, Draw(connection, interrupt, request), outcome);
  const auto read = ReadBox(box->fields.value("path", ""));
  if (!read.ok()) return read.status();
  outcome.diagnosis = Name(Diagnose(*read).cause);
  outcome.named = outcome.diagnosis == NameOfFault(kind);
  return outcome;
}

std::string ChaosHead() {
  return "| fault | in | found after s | serves again after s | request | diagnose says |\n"
         "| --- | --- | --- | --- | --- | --- |\n";
}

std::string ChaosRow(const ChaosOutcome& outcome) {
  return absl::StrFormat("| %s | %s | %.2f | %.2f | %s | %s%s |\n", outcome.kind, outcome.place,
                         absl::ToDoubleSeconds(outcome.detection),
                         absl::ToDoubleSeconds(outcome.recovery), outcome.request,
                         outcome.diagnosis, outcome.named ? "" : " (WRONG)");
}

std::string ChaosMatrix(const std::vector<ChaosOutcome>& outcomes) {
  std::string text = absl::StrCat("\n| fault | ", absl::StrJoin(kFaultPlaces, " | "),
                                  " | request | diagnose says |\n|");
  for (size_t i = 0; i < kFaultPlaces.size() + 3; ++i) text += " --- |";
  for (const std::string& kind : kFaultKinds) {
    std::vector<std::string> cells(kFaultPlaces.size());
    std::set<std::string> requests;
    std::set<std::string> diagnoses;
    for (const ChaosOutcome& outcome : outcomes) {
      if (outcome.kind != kind) continue;
      const auto place = std::find(kFaultPlaces.begin(), kFaultPlaces.end(), outcome.place);
      cells[static_cast<size_t>(place - kFaultPlaces.begin())] =
          absl::StrFormat("%.1f + %.1f", absl::ToDoubleSeconds(outcome.detection),
                          absl::ToDoubleSeconds(outcome.recovery));
      requests.insert(outcome.request);
      diagnoses.insert(outcome.diagnosis);
    }
    if (requests.empty()) continue;
    absl::StrAppend(&text, "\n| ", kind, " | ", absl::StrJoin(cells, " | "), " | ",
                    absl::StrJoin(requests, "; "), " | ", absl::StrJoin(diagnoses, "; "), " |");
  }
  return text + "\n";
}

std::string ChaosSum(const std::vector<ChaosOutcome>& outcomes) {
  const auto count = [&](bool (*good)(const ChaosOutcome&)) {
    return std::count_if(outcomes.begin(), outcomes.end(), good);
  };
  return absl::StrCat("\n", outcomes.size(),
                      " faults: ", count([](const ChaosOutcome& o) { return o.named; }),
                      " named rightly, ", count([](const ChaosOutcome& o) { return o.request_ok; }),
                      " with the outcome that the design promises\n");
}

}  // namespace patchflow
