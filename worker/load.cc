#include "worker/load.h"

#include <algorithm>
#include <future>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/device.h"
#include "engine/loop_graphs.h"
#include "worker/digest.h"
#include "worker/encoder.h"
#include "worker/guarded_engine.h"
#include "worker/log.h"
#include "worker/memory_sampler.h"
#include "worker/warm_up.h"
#include "worker/warm_up_agreement.h"
#include "worker/worlds.h"

namespace patchflow {
namespace {

constexpr int64_t kMaxPixelsOnGpus = int64_t{kMaxSizePx} * kMaxSizePx;
constexpr int64_t kMaxPixelsOnCpus = int64_t{2048} * 2048;
// A rank that hangs never comes back, and the process ends anyway: no time for it.
constexpr absl::Duration kAbort = absl::Seconds(1);
constexpr absl::Duration kMemorySampling = absl::Seconds(1);

int64_t MaxPixels(const LoadOptions& options) {
  return options.devices.are_gpus() ? kMaxPixelsOnGpus : kMaxPixelsOnCpus;
}

absl::StatusOr<std::unique_ptr<RankGroup>> StartGroup(const LoadOptions& options, int first_rank,
                                                      const ModelDescription& description,
                                                      const SharedWorlds& worlds,
                                                      const RanksHints& text_hints,
                                                      const WarmUpPlan& warm_up) {
  RankGroupOptions group;
  group.first_rank = first_rank;
  group.ranks = static_cast<int>(options.devices.of_rank.size());
  group.load_timeout = options.load_timeout;
  group.first_run_timeout = options.first_run_timeout;
  group.phase_timeout = options.phase_timeout;
  group.abort_timeout = kAbort;
  group.abort = [worlds, watch = options.watch](const std::string& reason) {
    // Nobody has aborted it yet: it has found its fault itself.
    if (worlds->failure && !worlds->failure().empty()) ++*watch.nccl_errors;
    watch.OnFault(reason);
    worlds->carriers.front()->Abort(reason);
  };
  const int group_here = group.ranks;
  group.make_engine = [=](int rank) -> absl::StatusOr<std::unique_ptr<Engine>> {
    const auto index = static_cast<size_t>(rank);
    auto engine =
        LoadWatchedEngine(options.watch,
                          {.model_dir = options.model_dir,
                           .device = options.devices.of_rank[index],
                           .dtype = options.devices.dtype,
                           .text_hints = text_hints.empty() ? nullptr : text_hints[index],
                           .batch_size = options.batch_size},
                          options.layout, description.transformer, *worlds->of_rank[index]);
    // Hosts take their time to read weights: the others' waiting is loading, not a hang.
    if (engine.ok() && options.group_ranks > group_here) {
      const absl::Status agreed = AgreeOnWarmUp(*worlds->of_rank[index], warm_up);
      if (!agreed.ok()) return agreed;
    }
    if (!engine.ok() || !worlds->failure) return engine;
    return GuardEngine(*std::move(engine), worlds->failure);
  };
  return RankGroup::Start(std::move(group));
}

RanksHints MakeHints(int ranks) {
  RanksHints hints;
  for (int rank = 0; rank < ranks; ++rank) hints.push_back(std::make_shared<TextHints>());
  return hints;
}

std::vector<CommunicationTime> CommunicationTimesOf(const CountingWorld& world) {
  std::vector<CommunicationTime> times;
  for (const auto& [operation, name] : {std::pair{Operation::kAllReduceSum, "allreduce"},
                                        {Operation::kAllGather, "allgather"},
                                        {Operation::kAllToAll, "all2all"},
                                        {Operation::kSend, "p2p"}}) {
    const Traffic::Count count = world.Total(operation);
    times.push_back({name, count.calls, absl::FromChrono(count.time), count.bytes});
  }
  return times;
}

std::function<std::vector<RankFigures>()> FiguresOf(const LoadOptions& options,
                                                    const SharedWorlds& worlds) {
  const std::vector<at::Device> devices = options.devices.of_rank;
  const int64_t total_bytes = TotalMemoryBytes(devices.front());
  const std::string name = options.devices.name;
  const auto in_use =
      options.devices.are_gpus()
          ? std::make_shared<const MemorySampler>(
                devices.size(), [devices](size_t rank) { return DeviceUsedBytes(devices[rank]); },
                kMemorySampling)
          : nullptr;
  return [=] {
    std::vector<RankFigures> figures;
    for (size_t rank = 0; rank < devices.size(); ++rank) {
      const DeviceMemory memory = MemoryOf(devices[rank]);
      figures.push_back({.position = {},
                         .memory_used_bytes = memory.used_bytes,
                         .memory_peak_bytes = memory.highest_bytes,
                         .memory_total_bytes = total_bytes,
                         .memory_reserved_bytes = memory.reserved_bytes,
                         .device_used_bytes = in_use == nullptr ? 0 : in_use->Used(rank),
                         .device_peak_bytes = in_use == nullptr ? 0 : in_use->Peak(rank),
                         .communication_bytes = worlds->of_rank[rank]->Total().bytes,
                         .communication_times = CommunicationTimesOf(*worlds->of_rank[rank]),
                         .device = name});
    }
    return figures;
  };
}

// With configs that can't be read the layout can't be checked, but the weights can.
absl::Status EverythingWrong(const LoadOptions& options) {
  return Engine::Load({.model_dir = options.model_dir,
                       .device = options.devices.of_rank.front(),
                       .dtype = options.devices.dtype},
                      {})
      .status();
}

void LogComponents(const RankGroup& group) {
  for (const LoadedComponent& component : group.components()) {
    Log(LogLevel::kInfo, "component loaded",
        {{"component", component.name},
         {"seconds", absl::ToDoubleSeconds(component.time)},
         {"parameter_bytes", component.parameter_bytes}});
  }
}

Plan PlanOf(const LoadOptions& options, const std::string& model_digest) {
  const auto ranks = static_cast<int>(options.devices.of_rank.size());
  return {.model_digest = model_digest,
          .build = BuildId(),
          .arithmetic = ArithmeticName(options.devices.of_rank.front()),
          .dtype = options.devices.dtype_name,
          // NCCL may add in another order where a group spans hosts.
          .layout = absl::StrCat(
              ToString(options.layout),
              options.devices.are_gpus() && options.group_ranks > ranks ? " over hosts" : ""),
          .batch_size = options.batch_size};
}

WarmUpPlan PlanOfWarmUp(const LoadOptions& options, const ModelDescription& description) {
  return PlanWarmUp(
      options.warm_up, description, options.layout, options.devices.are_gpus(),
      options.default_guidance > 0 ? options.default_guidance : description.default_guidance_scale,
      options.batch_size);
}

absl::Status CheckAgainst(const ModelDescription& description, const LoadOptions& options) {
  const auto ranks = static_cast<int>(options.devices.of_rank.size());
  const absl::Status fits =
      CheckLayout(options.layout, std::max(ranks, options.group_ranks), description.transformer);
  if (!fits.ok()) return fits;
  const absl::Status warm_up = CheckWarmUp(PlanOfWarmUp(options, description).sizes, description,
                                           options.layout, MaxPixels(options));
  return warm_up.ok()
             ? warm_up
             : absl::Status(warm_up.code(), absl::StrCat("--warm-up: ", warm_up.message()));
}

absl::StatusOr<ModelDescription> Describe(const LoadOptions& options) {
  absl::StatusOr<ModelDescription> description = DescribeModel(options.model_dir);
  if (absl::IsNotFound(description.status())) return description.status();
  if (!description.ok()) return EverythingWrong(options);
  const absl::Status fits = CheckAgainst(*description, options);
  if (!fits.ok()) return fits;
  return description;
}

absl::StatusOr<LoadedGroup> Load(LoadOptions options, int first_rank,
                                 const ModelDescription& description, const SharedWorlds& worlds) {
  const int cores = UsableCores();
  const auto ranks = static_cast<int>(options.devices.of_rank.size());
  SetThreadsPerOperation(options.threads > 0 ? options.threads : std::max(1, cores / ranks));

  const WarmUpPlan warm_up = PlanOfWarmUp(options, description);
  options.watch.warm_up_images = warm_up.images();
  KeepKinds(warm_up.sizes.size());

  auto digest = std::async(std::launch::async, ModelDigest, options.model_dir, cores);
  // Ranks that share the text encoder follow no hints. Its all-reduces would run in a communicator
  // of their own beside those of the steps, and NCCL allows that only in one order on every rank
  // (NCCL_LAUNCH_ORDER_IMPLICIT): all of a text's before all of a step's, which then hides nothing.
  const RanksHints text_hints = options.layout.shared_text ? RanksHints() : MakeHints(ranks);
  absl::StatusOr<std::unique_ptr<RankGroup>> group =
      StartGroup(options, first_rank, description, worlds, text_hints, warm_up);
  if (!group.ok()) return group.status();
  LogComponents(**group);
  options.on_warm_up();
  const absl::StatusOr<absl::Duration> warmup_time = WarmUp(warm_up, **group);
  if (!warmup_time.ok()) return warmup_time.status();
  const absl::StatusOr<std::string> model_digest = digest.get();
  if (!model_digest.ok()) return model_digest.status();

  const Plan plan = PlanOf(options, *model_digest);
  LoadedGroup loaded;
  loaded.offer = {.description = (*group)->description(),
                  .model_digest = *model_digest,
                  .plan_digest = PlanDigest(plan),
                  .plan_facts = PlanFacts(plan),
                  .dtype = options.devices.dtype_name,
                  .device = options.devices.name,
                  .max_pixels = MaxPixels(options),
                  .load_time = {},
                  .warmup_time = *warmup_time};
  if (options.default_guidance > 0) {
    loaded.offer.description.default_guidance_scale = options.default_guidance;
  }
  loaded.figures = FiguresOf(options, worlds);
  loaded.encoder = std::make_shared<Encoder>(EncoderOptions{
      options.first_run_timeout, options.phase_timeout, options.watch.BeforeEncode()});
  loaded.text_hints = text_hints;
  loaded.group = *std::move(group);
  return loaded;
}

}  // namespace

absl::Status CheckLoad(const LoadOptions& options) {
  const absl::StatusOr<ModelDescription> description = DescribeModel(options.model_dir);
  return description.ok() ? CheckAgainst(*description, options) : description.status();
}

absl::StatusOr<LoadedGroup> LoadGroup(const LoadOptions& options) {
  const absl::StatusOr<ModelDescription> description = Describe(options);
  if (!description.ok()) return description.status();
  const absl::StatusOr<SharedWorlds> worlds = JoinHere(options.devices, options.first_run_timeout);
  if (!worlds.ok()) return worlds.status();
  return Load(options, 0, *description, *worlds);
}

ShareOptions LoadShare(const LoadOptions& options) {
  const auto worlds =
      std::make_shared<WorldMaker>(options.devices, options.group_ranks, options.load_timeout);
  ShareOptions share;
  share.group_ranks = options.group_ranks;
  share.check = [options] { return Describe(options).status(); };
  share.make_world = [worlds](const std::string& host) { return worlds->MakeId(host); };
  share.load = [options, worlds](const Place& place) -> absl::StatusOr<LoadedGroup> {
    const absl::StatusOr<ModelDescription> description = Describe(options);
    if (!description.ok()) return description.status();
    const absl::StatusOr<SharedWorlds> joined = worlds->Join(place);
    if (!joined.ok()) return joined.status();
    return Load(options, place.first_rank, *description, *joined);
  };
  return share;
}

}  // namespace patchflow
