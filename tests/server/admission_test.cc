#include "server/admission.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/server/generations.h"
#include "tests/server/scratch_folder.h"
#include "tests/server/scripted_worker.h"

namespace patchflow {
namespace {

class AdmissionTest : public ::testing::Test {
 protected:
  AdmissionTest() { Configure({}); }
  ~AdmissionTest() override {
    for (const auto& generation : registry_->Live()) {
      generation->End(TestError(absl::StatusCode::kUnavailable, reason::kDraining));
    }
  }

  void Configure(const Limits& limits, Store* store = nullptr) {
    models_.clear();
    models_["shapes"] = std::make_unique<ServedModel>("shapes", std::vector<Group*>{&group_},
                                                      limits, metrics_.model("shapes"));
    registry_ = std::make_unique<Registry>(1 << 20, absl::Seconds(300));
    admission_ = std::make_unique<Admission>(
        Admission::Parts{models_, *registry_, timer_, *audit_, store}, limits);
  }
  ServedModel& model() { return *models_.at("shapes"); }

  static v1::GenerateImagesRequest Request(const std::string& id = "") {
    v1::GenerateImagesRequest request;
    request.set_request_id(id);
    request.mutable_prompt()->set_text("a star");
    return request;
  }
  Admission::Caller Caller(absl::Duration deadline = absl::InfiniteDuration()) {
    Admission::Caller caller;
    if (deadline < absl::InfiniteDuration()) {
      caller.deadline = Clock::now() + ToClock(deadline);
    }
    subscribers_.push_back(std::make_shared<CountingSubscriber>());
    caller.subscriber = subscribers_.back();
    caller.identity = {"", "peer", true};
    return caller;
  }
  // So many images of the default shape, each of 4 steps.
  void Learn(int samples, absl::Duration denoise) {
    v1::EffectiveParams params;
    params.set_width(256);
    params.set_height(256);
    params.set_steps(4);
    params.set_guidance_scale(4.5F);
    for (int i = 0; i < samples; ++i) {
      model().costs().Record("plan-1", params, absl::ZeroDuration(), denoise);
    }
  }
  absl::Status Admit(absl::Duration deadline = absl::InfiniteDuration()) {
    return admission_->Admit(Request(), Caller(deadline)).status();
  }

  Metrics metrics_{{"shapes"}, {"g"}};
  Timer timer_;
  std::unique_ptr<AuditLog> audit_ = *AuditLog::Open({});
  Group group_{
      GroupConfig{.name = "g", .model = "", .model_name = "shapes", .layout = "", .workers = {}}};
  const bool served_ = [this] {
    group_.SetServing(std::make_shared<ScriptedWorker>([](int, ScriptedJob&) {}),
                      ScriptedWorker::Info());
    return true;
  }();
  std::vector<std::shared_ptr<CountingSubscriber>> subscribers_;
  Admission::Models models_;
  std::unique_ptr<Registry> registry_;
  std::unique_ptr<Admission> admission_;
};

TEST_F(AdmissionTest, TellsWhatItKnowsOfTheCost) {
  auto unknown = admission_->Admit(Request(), Caller());
  ASSERT_TRUE(unknown.ok()) << unknown.status();
  EXPECT_FALSE((*unknown)->spec().accepted.has_estimated_run());
  Learn(1, absl::Seconds(4));
  auto known = admission_->Admit(Request(), Caller());
  ASSERT_TRUE(known.ok());
  const v1::Accepted& accepted = (*known)->spec().accepted;
  EXPECT_EQ(FromProto(accepted.estimated_run()), absl::Seconds(4));
  EXPECT_EQ(FromProto(accepted.cost().gpu_time()), absl::Seconds(8)) << "two ranks";
  EXPECT_EQ(accepted.queue_position(), 1);
}

TEST_F(AdmissionTest, RefusesASizeThatRanOutOfMemory) {
  const auto known = admission_->Admit(Request(), Caller());
  ASSERT_TRUE(known.ok()) << known.status();
  const GenerationSpec& spec = (*known)->spec();
  for (int i = 0; i < MemoryBudget::kTimes; ++i) {
    model().costs().memory().RanOut(spec.accepted.plan_digest(),
                                    int64_t{spec.params().width()} * spec.params().height());
  }
  EXPECT_EQ(ReasonOf(admission_->Admit(Request(), Caller()).status()), "GPU_MEMORY_BUDGET");
}

TEST_F(AdmissionTest, RefusesADeadlineOnlyOnceAShapeHasFiveSamples) {
  Learn(4, absl::Seconds(10));
  EXPECT_TRUE(Admit(absl::Seconds(5)).ok());
  Learn(1, absl::Seconds(10));
  const absl::Status refused = Admit(absl::Seconds(5));
  EXPECT_EQ(refused.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(refused), "DEADLINE_UNMEETABLE");
  EXPECT_FALSE(RetryDelayOf(refused).has_value()) << "the same would be refused again";
}

TEST_F(AdmissionTest, RefusesADeadlineOnlyIfTheFastestTenthMissesIt) {
  Learn(4, absl::Seconds(1));
  Learn(20, absl::Seconds(10));
  EXPECT_TRUE(Admit(absl::Seconds(5)).ok()) << "one of ten takes a second";
}

TEST_F(AdmissionTest, LeavesNothingOfWhatItRefused) {
  Learn(5, absl::Seconds(10));
  EXPECT_FALSE(Admit(absl::Seconds(5)).ok());
  EXPECT_EQ(model().queue().size(), 0U);
  EXPECT_EQ(registry_->live(), 0U);
  EXPECT_EQ(registry_->kept(), 0U);
}

TEST_F(AdmissionTest, SpreadsTheTimesToComeBack) {
  Limits limits;
  limits.max_queue = 1;
  Configure(limits);
  Learn(1, absl::Seconds(10));
  ASSERT_TRUE(Admit().ok());
  std::set<absl::Duration> delays;
  for (int i = 0; i < 50; ++i) {
    const absl::Status refused = Admit();
    ASSERT_EQ(ReasonOf(refused), "QUEUE_FULL");
    const auto delay = RetryDelayOf(refused);
    ASSERT_TRUE(delay.has_value());
    EXPECT_GE(*delay, absl::Seconds(8)) << "the one that waits takes 10 s";
    EXPECT_LE(*delay, absl::Seconds(12));
    delays.insert(*delay);
  }
  EXPECT_GT(delays.size(), 40U);
  EXPECT_LT(*delays.begin(), absl::Seconds(9.5));
  EXPECT_GT(*delays.rbegin(), absl::Seconds(10.5));
}

TEST_F(AdmissionTest, BoundsTheWorkThatWaits) {
  Limits limits;
  limits.max_queue_work = absl::Seconds(15);
  Configure(limits);
  Learn(1, absl::Seconds(10));
  EXPECT_TRUE(Admit().ok());
  const absl::Status refused = Admit();
  EXPECT_EQ(ReasonOf(refused), "QUEUE_FULL");
  EXPECT_EQ(MetadataOf(refused, "queued_work_ms"), "10000");
}

TEST_F(AdmissionTest, GivesHighPriorityOnlyToThoseWithTheRight) {
  auto request = Request();
  request.mutable_scheduling()->set_priority(v1::PRIORITY_HIGH);
  EXPECT_TRUE(admission_->Admit(request, Caller()).ok());
  auto caller = Caller();
  caller.identity.high_priority = false;
  const absl::Status refused = admission_->Admit(request, caller).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(MetadataOf(refused, "right"), "high_priority");
}

TEST_F(AdmissionTest, LimitsTheRateAlsoOfWhatIsOnlyValidated) {
  Limits limits;
  limits.requests_per_second = 0.001;
  limits.burst = 1;
  Configure(limits);
  EXPECT_TRUE(admission_->Check(Request(), Caller()).ok());
  EXPECT_EQ(ReasonOf(admission_->Check(Request(), Caller()).status()), "RATE_LIMITED");
}

TEST_F(AdmissionTest, RunsTheDeadlineOfTheCallOrTheRequestWhicheverIsSooner) {
  auto request = Request();
  request.mutable_scheduling()->mutable_timeout()->set_seconds(5);
  auto generation = admission_->Admit(request, Caller(absl::Seconds(50)));
  ASSERT_TRUE(generation.ok());
  const auto deadline = (*generation)->spec().deadline;
  ASSERT_TRUE(deadline.has_value());
  EXPECT_LT(*deadline, Clock::now() + std::chrono::seconds(6));
}

TEST_F(AdmissionTest, ChecksTheTimeoutAsItDoesADeadline) {
  Learn(5, absl::Seconds(10));
  auto request = Request();
  request.mutable_scheduling()->mutable_timeout()->set_seconds(5);
  EXPECT_EQ(ReasonOf(admission_->Admit(request, Caller()).status()), "DEADLINE_UNMEETABLE");
  request.mutable_scheduling()->mutable_timeout()->set_seconds(50);
  EXPECT_TRUE(admission_->Admit(request, Caller()).ok());
}

TEST_F(AdmissionTest, TheCallOfADetachedRequestMayEndLongBefore) {
  Learn(5, absl::Seconds(10));
  auto request = Request();
  request.mutable_scheduling()->set_on_disconnect(v1::DISCONNECT_POLICY_DETACH);
  auto generation = admission_->Admit(request, Caller(absl::Seconds(5)));
  ASSERT_TRUE(generation.ok()) << generation.status();
  EXPECT_FALSE((*generation)->spec().deadline.has_value());
}

TEST_F(AdmissionTest, JoinsAndReplaysWithoutAGroup) {
  auto live = admission_->Admit(Request("live"), Caller());
  auto ended = admission_->Admit(Request("ended"), Caller());
  ASSERT_TRUE(live.ok() && ended.ok());
  (*ended)->End(absl::OkStatus());
  group_.SetLost("died");
  group_.SetLost("died again");
  admission_->SetDraining(true);
  EXPECT_EQ(*admission_->Admit(Request("live"), Caller()), *live);
  EXPECT_EQ(*admission_->Admit(Request("ended"), Caller()), *ended);
  auto other = Request("ended");
  other.mutable_prompt()->set_text("a circle");
  EXPECT_EQ(ReasonOf(admission_->Admit(other, Caller()).status()), "REQUEST_ID_CONFLICT");
  EXPECT_EQ(ReasonOf(admission_->Admit(Request("new"), Caller()).status()), "DRAINING");
  admission_->SetDraining(false);
  EXPECT_EQ(ReasonOf(admission_->Admit(Request("new"), Caller()).status()), "ENGINE_RECOVERING");
}

TEST_F(AdmissionTest, ChecksWhatMayDifferOfWhatIsJoined) {
  Limits limits;
  limits.max_unary_bytes = 1024;
  Configure(limits);
  ASSERT_TRUE(admission_->Admit(Request("a"), Caller()).ok());
  auto request = Request("a");
  request.mutable_scheduling()->mutable_timeout()->set_seconds(-1);
  EXPECT_EQ(ReasonOf(admission_->Admit(request, Caller()).status()), "INVALID_REQUEST");
  auto caller = Caller();
  caller.unary = true;
  EXPECT_EQ(ReasonOf(admission_->Admit(Request("a"), caller).status()), "LIMIT_EXCEEDED");
}

TEST_F(AdmissionTest, BoundsWhatIsDetachedLaterByItsTimeout) {
  auto first = admission_->Admit(Request("a"), Caller());
  ASSERT_TRUE(first.ok());
  const auto* const attached = subscribers_.back().get();
  auto detached = Request("a");
  detached.mutable_scheduling()->set_on_disconnect(v1::DISCONNECT_POLICY_DETACH);
  detached.mutable_scheduling()->mutable_timeout()->set_nanos(50000000);
  ASSERT_TRUE(admission_->Admit(detached, Caller()).ok());
  const auto* const joiner = subscribers_.back().get();
  (*first)->Unsubscribe(joiner, absl::CancelledError());
  (*first)->Unsubscribe(attached, absl::CancelledError());
  EXPECT_FALSE((*first)->ended());
  ASSERT_TRUE(Eventually([&] { return (*first)->ended(); }));
  EXPECT_EQ(ReasonOf((*first)->standing().status), "DEADLINE_IN_QUEUE");
}

TEST_F(AdmissionTest, RefusesWhileDrainingAndTakesAfterwards) {
  admission_->SetDraining(true);
  EXPECT_EQ(ReasonOf(Admit()), "DRAINING");
  admission_->SetDraining(false);
  EXPECT_TRUE(Admit().ok());
}

class StoredAdmissionTest : public AdmissionTest {
 protected:
  StoredAdmissionTest() {
    Reopen();
    Configure({}, store_.get());
  }
  ~StoredAdmissionTest() override {
    for (const auto& generation : registry_->Live()) {
      generation->End(TestError(absl::StatusCode::kUnavailable, reason::kDraining));
    }
    store_.reset();
  }
  void Reopen() {
    store_.reset();
    StoreConfig config;
    config.directory = folder_.path("store");
    store_ = *Store::Open(config);
  }
  static v1::GenerateImagesRequest Detached(const std::string& id) {
    auto request = Request(id);
    request.mutable_scheduling()->set_on_disconnect(v1::DISCONNECT_POLICY_DETACH);
    return request;
  }

  ScratchFolder folder_;
  std::unique_ptr<Store> store_;
};

TEST_F(StoredAdmissionTest, StoresWhatIsDetachedBeforeItIsAccepted) {
  ASSERT_TRUE(admission_->Admit(Request("attached"), Caller()).ok());
  ASSERT_TRUE(admission_->Admit(Detached("detached"), Caller()).ok());
  auto unfinished = store_->Unfinished();
  ASSERT_TRUE(unfinished.ok());
  ASSERT_EQ(unfinished->size(), 1U);
  EXPECT_EQ(unfinished->front().spec.request_id, "detached");
}

TEST_F(StoredAdmissionTest, StoresWhatSomeoneDetachesFromLater) {
  ASSERT_TRUE(admission_->Admit(Request("a"), Caller()).ok());
  ASSERT_TRUE(admission_->Admit(Detached("a"), Caller()).ok());
  EXPECT_EQ(store_->Unfinished()->size(), 1U);
}

TEST_F(StoredAdmissionTest, StoresTheLongestTimeoutOfThoseThatDetached) {
  for (int seconds : {100, 5000, 10}) {
    auto request = Detached("a");
    request.mutable_scheduling()->mutable_timeout()->set_seconds(seconds);
    ASSERT_TRUE(admission_->Admit(request, Caller()).ok());
  }
  const auto timeout = [&] { return store_->Unfinished()->front().timeout; };
  EXPECT_GT(timeout(), absl::Seconds(4990));
  EXPECT_LT(timeout(), absl::Seconds(5010));
  ASSERT_TRUE(admission_->Admit(Detached("a"), Caller()).ok());
  EXPECT_EQ(timeout(), absl::InfiniteDuration());
}

TEST_F(StoredAdmissionTest, KeepsWhatDecidesOnTheBytesOfAFile) {
  auto before = admission_->Admit(Detached("a"), Caller());
  ASSERT_TRUE(before.ok());
  const StoredGeneration stored = std::move(store_->Unfinished()->front());
  EXPECT_TRUE(stored.spec.provenance_mark);
  EXPECT_FALSE(stored.spec.software.empty());
  EXPECT_EQ(stored.spec.software, (*before)->spec().software);
}

TEST_F(StoredAdmissionTest, StoresNothingThatIsRefused) {
  Limits limits;
  limits.max_queue = 1;
  Configure(limits, store_.get());
  ASSERT_TRUE(admission_->Admit(Request("a"), Caller()).ok());
  EXPECT_EQ(ReasonOf(admission_->Admit(Detached("b"), Caller()).status()), "QUEUE_FULL");
  EXPECT_TRUE(store_->Unfinished()->empty());
}

TEST_F(StoredAdmissionTest, QueuesWhatAnEarlierLifeAccepted) {
  auto before = admission_->Admit(Detached("a"), Caller());
  ASSERT_TRUE(before.ok());
  (*before)->End(TestError(absl::StatusCode::kUnavailable, reason::kDraining));
  Reopen();
  Configure({}, store_.get());
  auto unfinished = store_->Unfinished();
  ASSERT_EQ(unfinished->size(), 1U);
  admission_->Restore(std::move(unfinished->front()));
  const auto batch = model().queue().PopBatch("plan-1", 1, absl::ZeroDuration());
  ASSERT_EQ(batch.size(), 1U);
  const auto& restored = batch.front();
  EXPECT_EQ(restored->spec().params().seed(), (*before)->spec().params().seed())
      << "the seed that was drawn is drawn no more";
  EXPECT_EQ(*registry_->Find({"", "a"}), restored);
  EXPECT_TRUE(restored->durable());
  EXPECT_EQ(restored->standing().attempt, 2) << "the work begins again";
  auto again = admission_->Admit(Detached("a"), Caller());
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(*again, restored) << "the same request waits for it";
}

TEST_F(StoredAdmissionTest, EndsWhatItCannotRestore) {
  const auto restore = [&](const std::string& id, auto change) {
    StoredGeneration stored;
    stored.spec = TestSpec(id);
    stored.create_time = absl::Now() - absl::Seconds(10);
    stored.images.resize(1);
    change(stored);
    admission_->Restore(std::move(stored));
    EXPECT_TRUE(Eventually([&] { return (*registry_->Find({"", id}))->ended(); })) << id;
    return (*registry_->Find({"", id}))->standing().status;
  };
  EXPECT_EQ(ReasonOf(restore("late", [](StoredGeneration& s) { s.timeout = absl::Seconds(5); })),
            "DEADLINE_IN_QUEUE");
  EXPECT_EQ(ReasonOf(restore("model",
                             [](StoredGeneration& s) {
                               s.spec.accepted.mutable_effective()->set_model("gone");
                             })),
            "MODEL_NOT_FOUND");
  EXPECT_TRUE(restore("done", [](StoredGeneration& s) { s.images[0] = TestImage(0); }).ok());
  EXPECT_EQ(model().queue().size(), 0U);
}

}  // namespace
}  // namespace patchflow
