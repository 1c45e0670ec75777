// patchflow-bench link: what the ranks of a group send each other, in the sizes that the methods
// send: NCCL between GPUs, threads over host memory on CPUs.
#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/commands.h"
#include "bench/marks.h"
#include "bench/rank_threads.h"
#include "bench/report.h"
#include "engine/device.h"

namespace patchflow {
namespace {

constexpr double kMegabyte = 1e6;
constexpr absl::Duration kLimit = absl::Minutes(5);

struct Options {
  int ranks = 0;
  std::vector<double> sizes_mb;
};

struct Operation {
  const char* name;
  std::function<Pending(Communicator&, const Tensor& in, const Tensor& out)> issue;
};

// `in` is what a rank holds; bandwidth is its bytes over the time.
const std::vector<Operation> kOperations = {
    {"all-reduce",
     [](Communicator& ranks, const Tensor& in, const Tensor&) { return ranks.AllReduceSum(in); }},
    {"all-gather",
     [](Communicator& ranks, const Tensor& in, const Tensor& out) {
       return ranks.AllGather(in, out.view({ranks.size(), -1}));
     }},
    {"all-to-all",
     [](Communicator& ranks, const Tensor& in, const Tensor& out) {
       return ranks.AllToAll(in.view({ranks.size(), -1}),
                             out.narrow(0, 0, in.numel()).view({ranks.size(), -1}));
     }},
    {"to the next, from the one before",
     [](Communicator& ranks, const Tensor& in, const Tensor& out) {
       using Kind = Communicator::Transfer::Kind;
       const int next = (ranks.rank() + 1) % ranks.size();
       const int before = (ranks.rank() + ranks.size() - 1) % ranks.size();
       return ranks.Grouped(
           {{Kind::kSend, in, next}, {Kind::kRecv, out.narrow(0, 0, in.numel()), before}});
     }},
};

double MeasureMs(Communicator& ranks, const Operation& operation, double size_mb, at::Device device,
                 Repeats repeats) {
  const auto grain = int64_t{ranks.size()} * 64;
  const auto options = at::TensorOptions().device(device).dtype(at::kBFloat16);
  const int64_t items = (static_cast<int64_t>(size_mb * kMegabyte / 2) + grain - 1) / grain * grain;
  const Tensor in = at::zeros({items}, options).normal_();
  const Tensor out = at::empty({items * ranks.size()}, options);
  for (int i = 0; i < repeats.warm_up; ++i) operation.issue(ranks, in, out).Wait();
  const std::unique_ptr<Marks> marks = MakeMarks(device);
  marks->Set();
  for (int i = 0; i < repeats.measured; ++i) operation.issue(ranks, in, out).Wait();
  marks->Set();
  return marks->Between().front() / repeats.measured;
}

int RanksFor(const CommonOptions& common, const Options& options) {
  if (!common.on_cuda()) return options.ranks == 0 ? 2 : options.ranks;
  const int gpus = CudaDeviceCount();
  const int ranks = options.ranks == 0 ? gpus : options.ranks;
  if (ranks < 2 || ranks > gpus) {
    throw CLI::ValidationError("--ranks", std::to_string(ranks) + " GPUs of " +
                                              std::to_string(gpus) + ": at least 2 are needed");
  }
  return ranks;
}

// Every rank measures; the first reports.
void MeasureAll(const RankThread& rank, const Repeats& repeats, const std::vector<double>& sizes_mb,
                Report& report) {
  const std::unique_ptr<Communicator> ranks = rank.world.Split(0, "link");
  for (const double size_mb : sizes_mb) {
    nlohmann::json row = {{"size_mb", size_mb}};
    for (const Operation& operation : kOperations) {
      const double ms = MeasureMs(*ranks, operation, size_mb, rank.device, repeats);
      row[std::string(operation.name) + " us"] = ms * 1e3;
      row[std::string(operation.name) + " GB/s"] = size_mb / ms;
    }
    if (ranks->rank() == 0) report.Row(row);
  }
}

std::vector<Column> Columns() {
  std::vector<Column> columns = {{"size_mb", "MB a rank", 2}};
  for (const Operation& operation : kOperations) {
    const std::string name = operation.name;
    columns.push_back({name + " us", name + " us", 0});
    columns.push_back({name + " GB/s", "GB/s", 0});
  }
  return columns;
}

void Run(const CommonOptions& common, Options options) {
  const int ranks = RanksFor(common, options);
  if (options.sizes_mb.empty()) {
    options.sizes_mb = common.on_cuda() ? std::vector<double>{0.01, 1, 9.4, 18.9, 75, 512}
                                        : std::vector<double>{0.01, 1};
  }
  const at::Device device = common.at_device();
  Report report("link", device, std::to_string(ranks) + " ranks, bfloat16", Columns());
  RunOnRanks(device.type(), ranks, kLimit, [&](const RankThread& rank) {
    MeasureAll(rank, common.repeats, options.sizes_mb, report);
  });
  report.Write(common.json);
}

}  // namespace

void AddLinkCommand(CLI::App& app, const CommonOptions& common) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("link", "What the ranks of a group send each other");
  command->add_option("--ranks", options->ranks, "All GPUs, or two threads")
      ->check(CLI::Range(2, 64));
  command->add_option("--sizes-mb", options->sizes_mb)
      ->delimiter(',')
      ->check(CLI::Range(0.001, 4096.0));
  command->callback([&common, options] { Run(common, *options); });
}

}  // namespace patchflow
