#include "server/version_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "tests/server/generations.h"
#include "tests/server/model_folder.h"
#include "tests/server/scripted_worker.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

using State = admin::v1::LoadState;

// A model of one group or two, whose workers run a job until the test ends it.
class VersionLoaderTest : public ::testing::Test {
 protected:
  VersionLoaderTest() {
    WriteModelFolder(folder_, "old");
    WriteModelFolder(folder_, "new");
    Fleet::Makers makers;
    makers.supervisor = [](Group&, bool) { return nullptr; };
    makers.dispatcher = [this](Group& group) {
      return std::make_unique<Dispatcher>(
          Dispatcher::Parts{group, model_->queue(), costs_, registry_, metrics_.model("shapes")});
    };
    fleet_.SetMakers(std::move(makers));
  }
  ~VersionLoaderTest() override {
    fleet_.StopAll();
    loader_.reset();
    model_->queue().Close();
    model_->queue().Interrupt();
    fleet_.Clear();
  }

  GroupConfig Config(const std::string& name) {
    return {.name = name,
            .model = folder_.path("old"),
            .model_name = "shapes",
            .layout = "",
            .workers = {}};
  }
  void Serve(int groups = 1, absl::Duration drain = absl::Seconds(10),
             absl::Duration load = absl::Seconds(10)) {
    std::vector<Group*> old;
    for (int i = 0; i < groups; ++i) {
      old.push_back(&fleet_.Add(std::make_unique<Group>(Config(absl::StrCat("g", i)))));
    }
    model_ = std::make_unique<ServedModel>("shapes", old, Limits{}, metrics_.model("shapes"));
    for (Group* group : old) {
      MakeReady(*group, "plan-1");
      fleet_.Dispatch(*group);
    }
    loader_ = std::make_unique<VersionLoader>(
        VersionLoader::Parts{fleet_,
                             [](const GroupConfig& config, const Group& before) {
                               return std::make_unique<Group>(config, before.losses());
                             },
                             load, drain, [this] { return host_memory_; }});
  }
  void MakeReady(Group& group, const std::string& plan) {
    auto worker = std::make_shared<ScriptedWorker>([this, plan](int, ScriptedJob& job) {
      std::lock_guard<std::mutex> lock(mutex_);
      jobs_.push_back(&job);
      runs_.push_back(absl::StrCat(job.request.request_id(), " by ", plan));
      if (run_at_once_) {
        job.Images();
        job.End(absl::OkStatus());
      }
    });
    workers_.push_back(worker);
    group.SetServing(worker, ScriptedWorker::Info(plan));
  }
  // Those that LoadModel started.
  std::vector<Group*> Coming() {
    std::vector<Group*> coming;
    for (Group* group : fleet_.groups()) {
      if (group->config().model == folder_.path("new")) {
        coming.push_back(group);
      }
    }
    return coming;
  }
  void LoadNew(size_t groups = 1) {
    auto load = loader_->Begin(*model_, folder_.path("new"));
    ASSERT_TRUE(load.ok()) << load.status();
    EXPECT_EQ(load->state(), admin::v1::LOAD_STATE_LOADING);
    ASSERT_TRUE(Eventually([&] { return Coming().size() == groups; }));
  }
  bool Reaches(State state) {
    return Eventually([&] { return loader_->Progress(*model_)->state() == state; });
  }
  std::string RefusalOf(const std::string& folder) {
    const absl::Status status = loader_->Begin(*model_, folder).status();
    return absl::StrCat(ReasonOf(status), ": ", status.message());
  }

  // As admission does: what chooses a plan is queued before it lets go.
  std::shared_ptr<Generation> Submit(const std::string& id) {
    const auto entered = model_->Enter();
    GenerationSpec spec = TestSpec(id);
    spec.accepted.set_plan_digest((*model_->ChoosePlan())->plan_digest());
    auto generation = MakeGeneration(std::move(spec));
    EXPECT_TRUE(model_->queue().Push(generation).ok());
    return generation;
  }
  size_t Jobs() {
    std::lock_guard<std::mutex> lock(mutex_);
    return jobs_.size();
  }
  // Ends job `n` with its image, and whatever comes later at once.
  void FinishFrom(size_t n) {
    std::lock_guard<std::mutex> lock(mutex_);
    run_at_once_ = true;
    for (; n < jobs_.size(); ++n) {
      jobs_[n]->Images();
      jobs_[n]->End(absl::OkStatus());
    }
  }
  static bool Succeeds(const std::shared_ptr<Generation>& generation) {
    return Eventually([&] { return generation->ended(); }) && generation->standing().status.ok();
  }

  ScratchFolder folder_;
  int64_t host_memory_ = int64_t{1} << 40;
  Metrics metrics_{{"shapes"}, {"g0", "g1"}};
  CostModel costs_;
  Registry registry_{1 << 20, absl::Seconds(300)};
  std::mutex mutex_;
  bool run_at_once_ = false;
  std::vector<ScriptedJob*> jobs_;
  std::vector<std::string> runs_;
  std::vector<std::shared_ptr<ScriptedWorker>> workers_;
  Fleet fleet_;
  std::unique_ptr<ServedModel> model_;
  std::unique_ptr<VersionLoader> loader_;
};

TEST_F(VersionLoaderTest, RunsWhatComesOnTheNewVersionAndWhatCameOnTheOld) {
  Serve();
  auto running = Submit("running");
  auto waiting = Submit("waiting");
  ASSERT_TRUE(Eventually([&] { return Jobs() == 1; }));
  LoadNew();
  auto also_old = Submit("before-the-switch");
  MakeReady(*Coming()[0], "plan-2");
  ASSERT_TRUE(Reaches(admin::v1::LOAD_STATE_DRAINING));
  EXPECT_EQ(loader_->Progress(*model_)->old_generations(), 3);
  auto after = Submit("after");
  ASSERT_TRUE(Eventually([&] { return Jobs() == 2; })) << "the new version does not wait";
  EXPECT_EQ(fleet_.groups().size(), 2U) << "the old one is at work";
  FinishFrom(0);
  for (const auto& generation : {running, waiting, also_old, after}) {
    EXPECT_TRUE(Succeeds(generation)) << generation->standing().status;
  }
  ASSERT_TRUE(Reaches(admin::v1::LOAD_STATE_DONE));
  EXPECT_THAT(runs_,
              ::testing::UnorderedElementsAre("running by plan-1", "waiting by plan-1",
                                              "before-the-switch by plan-1", "after by plan-2"));
  ASSERT_EQ(fleet_.groups().size(), 1U);
  EXPECT_EQ(fleet_.groups()[0]->config().model, folder_.path("new"));
  EXPECT_EQ(model_->groups(), fleet_.groups());
  EXPECT_EQ(loader_->Progress(*model_)->ended_unfinished(), 0);
}

TEST_F(VersionLoaderTest, LosesNothingUnderLoad) {
  Serve(2);
  run_at_once_ = true;
  std::atomic<bool> going = true;
  std::vector<std::shared_ptr<Generation>> all;
  std::thread client([&] {
    for (int i = 0; going; ++i) {
      all.push_back(Submit(absl::StrCat("id", i)));
      std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
  });
  EXPECT_TRUE(Eventually([&] { return Jobs() > 50; }));
  LoadNew(2);
  for (Group* group : Coming()) {
    MakeReady(*group, "plan-2");
  }
  EXPECT_TRUE(Reaches(admin::v1::LOAD_STATE_DONE));
  const size_t switched = Jobs();
  EXPECT_TRUE(Eventually([&] { return Jobs() > switched + 50; }));
  going = false;
  client.join();
  for (const auto& generation : all) {
    ASSERT_TRUE(Succeeds(generation)) << generation->standing().status;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  EXPECT_EQ(std::set<std::string>(runs_.begin(), runs_.end()).size(), runs_.size());
  EXPECT_EQ(runs_.size(), all.size()) << "each ran once";
}

TEST_F(VersionLoaderTest, SwitchesAllGroupsAtOnce) {
  Serve(2);
  LoadNew(2);
  MakeReady(*Coming()[0], "plan-2");
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(loader_->Progress(*model_)->state(), admin::v1::LOAD_STATE_LOADING);
  EXPECT_EQ((*model_->ChoosePlan())->plan_digest(), "plan-1");
  MakeReady(*Coming()[1], "plan-2");
  ASSERT_TRUE(Reaches(admin::v1::LOAD_STATE_DONE));
  EXPECT_EQ((*model_->ChoosePlan())->plan_digest(), "plan-2");
}

TEST_F(VersionLoaderTest, LeavesTheOldVersionWhenTheNewOneFails) {
  Serve();
  LoadNew();
  EXPECT_THAT(RefusalOf(folder_.path("new")), HasSubstr("LOAD_REFUSED: model shapes is still"));
  Coming()[0]->SetFailed("a tensor is missing");
  ASSERT_TRUE(Reaches(admin::v1::LOAD_STATE_FAILED));
  EXPECT_EQ(loader_->Progress(*model_)->failure(), "group g0: a tensor is missing");
  EXPECT_TRUE(Coming().empty());
  auto generation = Submit("later");
  ASSERT_TRUE(Eventually([&] { return Jobs() == 1; }));
  FinishFrom(0);
  EXPECT_TRUE(Succeeds(generation));
  EXPECT_EQ(runs_[0], "later by plan-1");
  LoadNew();  // Another attempt is possible.
}

TEST_F(VersionLoaderTest, GivesUpWhatIsNotReadyInTime) {
  Serve(1, absl::Seconds(10), absl::Milliseconds(-4900));
  LoadNew();
  ASSERT_TRUE(Reaches(admin::v1::LOAD_STATE_FAILED));
  EXPECT_THAT(loader_->Progress(*model_)->failure(), HasSubstr("not ready after"));
  EXPECT_TRUE(model_->ready());
}

TEST_F(VersionLoaderTest, RefusesToSwitchToTheSamePlan) {
  Serve();
  LoadNew();
  MakeReady(*Coming()[0], "plan-1");
  ASSERT_TRUE(Reaches(admin::v1::LOAD_STATE_FAILED));
  EXPECT_THAT(loader_->Progress(*model_)->failure(), HasSubstr("served already: plan plan-1"));
}

TEST_F(VersionLoaderTest, EndsWhatTheOldVersionCannotFinishInTime) {
  Serve(1, absl::Milliseconds(200));
  auto running = Submit("running");
  auto waiting = Submit("waiting");
  ASSERT_TRUE(Eventually([&] { return Jobs() == 1; }));
  LoadNew();
  MakeReady(*Coming()[0], "plan-2");
  ASSERT_TRUE(Reaches(admin::v1::LOAD_STATE_DONE));
  for (const auto& generation : {running, waiting}) {
    ASSERT_TRUE(generation->ended());
    EXPECT_EQ(ReasonOf(generation->standing().status), "PLAN_CHANGED");
  }
  EXPECT_EQ(loader_->Progress(*model_)->ended_unfinished(), 2);
}

TEST_F(VersionLoaderTest, WaitsForWhoChoseTheOldPlanBeforeTheSwitch) {
  Serve();
  auto entered = model_->Enter();
  LoadNew();
  MakeReady(*Coming()[0], "plan-2");
  ASSERT_TRUE(Reaches(admin::v1::LOAD_STATE_DRAINING));
  std::this_thread::sleep_for(std::chrono::milliseconds(700));  // Longer than a look at the queue.
  EXPECT_EQ(loader_->Progress(*model_)->state(), admin::v1::LOAD_STATE_DRAINING);
  auto late = MakeGeneration(TestSpec("late"));
  ASSERT_TRUE(model_->queue().Push(late).ok());
  entered.reset();
  ASSERT_TRUE(Eventually([&] { return Jobs() == 1; }));
  FinishFrom(0);
  EXPECT_TRUE(Succeeds(late)) << late->standing().status;
  EXPECT_EQ(runs_[0], "late by plan-1");
  EXPECT_TRUE(Reaches(admin::v1::LOAD_STATE_DONE));
}

TEST_F(VersionLoaderTest, RefusesWhatCannotBegin) {
  Serve();
  EXPECT_EQ(RefusalOf("models/new").substr(0, 53),
            "INVALID_REQUEST: folder: 'models/new' is no absolute ");
  EXPECT_THAT(RefusalOf(folder_.path("none")), HasSubstr("model_index.json"));
  host_memory_ = 1 << 20;
  EXPECT_THAT(RefusalOf(folder_.path("new")),
              HasSubstr("NOT_ENOUGH_MEMORY: the host: the new version needs about 256 MiB beside "
                        "the old one, 1 MiB are free"));
  EXPECT_EQ(fleet_.groups().size(), 1U);
  EXPECT_FALSE(loader_->Progress(*model_).has_value());
}

TEST_F(VersionLoaderTest, RefusesWorkersOfOthers) {
  GroupConfig config = Config("g0");
  config.workers = {"gpu-1:7000"};
  Group& group = fleet_.Add(std::make_unique<Group>(config));
  Serve(0);
  model_ = std::make_unique<ServedModel>("shapes", std::vector<Group*>{&group}, Limits{},
                                         metrics_.model("shapes"));
  EXPECT_THAT(RefusalOf(folder_.path("new")), HasSubstr("LOAD_REFUSED: group g0 has workers that "
                                                        "this server did not start (gpu-1:7000)"));
}

}  // namespace
}  // namespace patchflow
