#include "parallel/local_channel.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace patchflow {
namespace {

using Kind = LocalOperation::Kind;
using TransferKind = Communicator::Transfer::Kind;

constexpr int64_t kSumPiece = 16384;

const char* NameOf(const LocalOperation& operation) {
  switch (operation.kind) {
    case Kind::kAllReduceSum:
      return "all_reduce_sum";
    case Kind::kAllGather:
      return "all_gather";
    case Kind::kAllToAll:
      return "all_to_all";
    case Kind::kTransfers:
      break;
  }
  return operation.transfers.size() > 1                            ? "grouped"
         : operation.transfers.front().kind == TransferKind::kSend ? "send"
                                                                   : "recv";
}

// The bytes of part `index` of the `count` equal parts of a tensor.
char* PartOf(const Tensor& t, int index, int count) {
  return static_cast<char*>(t.data_ptr()) + t.nbytes() / count * index;
}

}  // namespace

void LocalChannel::Issue(int rank, const std::shared_ptr<LocalOperation>& operation) {
  std::lock_guard<std::mutex> lock(mutex_);
  ThrowIfAborted();
  operation->number = issued_[rank]++;
  queues_[rank].push_back(operation);
  if (options_.timing == LocalTiming::kAtIssue) {
    while (Progress(rank)) {
    }
  }
  changed_.notify_all();
}

void LocalChannel::Wait(int rank, const LocalOperation& operation) {
  const auto deadline =
      std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(options_.timeout);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!operation.done) {
    ThrowIfAborted();
    if (Progress(rank)) {
      changed_.notify_all();
    } else if (changed_.wait_until(lock, deadline) == std::cv_status::timeout && !operation.done &&
               aborted_.empty()) {
      Fail(absl::StrCat(Describe(rank, operation), " waited ",
                        absl::FormatDuration(options_.timeout), Missing(rank, operation)));
    }
  }
}

void LocalChannel::Abort(const std::string& reason) {
  std::lock_guard<std::mutex> lock(mutex_);
  AbortLocked(reason);
}

void LocalChannel::AbortLocked(const std::string& reason) {
  if (aborted_.empty()) {
    aborted_ = reason.empty() ? "no reason given" : reason;
    for (const auto& hook : std::exchange(abort_hooks_, {})) {
      hook(aborted_);
    }
  }
  changed_.notify_all();
}

void LocalChannel::OnAbort(std::function<void(const std::string& reason)> hook) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (aborted_.empty()) {
    abort_hooks_.push_back(std::move(hook));
  } else {
    hook(aborted_);
  }
}

bool LocalChannel::aborted() {
  std::lock_guard<std::mutex> lock(mutex_);
  return !aborted_.empty();
}

std::string LocalChannel::Describe(int rank, const LocalOperation& operation) const {
  return absl::StrCat(name_, " communicator, rank ", rank, " of ", size(), ": ", NameOf(operation),
                      " #", operation.number);
}

LocalOperation* LocalChannel::Head(int rank) const {
  return queues_[rank].empty() ? nullptr : queues_[rank].front().get();
}

void LocalChannel::Finish(int rank) {
  LocalOperation& operation = *queues_[rank].front();
  operation.done = true;
  if (operation.on_done) {
    operation.on_done(operation);
  }
  queues_[rank].pop_front();
}

void LocalChannel::ThrowIfAborted() const {
  if (!aborted_.empty()) {
    throw CommunicatorError(absl::StrCat(name_, " communicator was aborted: ", aborted_));
  }
}

void LocalChannel::Fail(const std::string& reason) {
  AbortLocked(reason);
  throw CommunicatorError(reason);
}

bool LocalChannel::Progress(int rank) {
  for (int i = 0; i < size(); ++i) {
    if (TryHead((rank + i) % size())) {
      return true;
    }
  }
  return false;
}

bool LocalChannel::TryHead(int rank) {
  const LocalOperation* head = Head(rank);
  if (head == nullptr) {
    return false;
  }
  return head->kind == Kind::kTransfers ? TryTransfers(rank) : TryCollective(rank);
}

bool LocalChannel::TryCollective(int rank) {
  const LocalOperation& mine = *Head(rank);
  for (int peer = 0; peer < size(); ++peer) {
    const LocalOperation* other = Head(peer);
    if (other == nullptr || other->kind == Kind::kTransfers) {
      return false;
    }
    if (other->kind != mine.kind || other->in.sizes() != mine.in.sizes() ||
        other->in.scalar_type() != mine.in.scalar_type()) {
      Fail(absl::StrCat(Describe(rank, mine), " meets rank ", peer, "'s ", NameOf(*other), " of ",
                        other->in.numel(), " elements with one of ", mine.in.numel()));
    }
  }
  RunCollective(mine.kind);
  for (int peer = 0; peer < size(); ++peer) {
    Finish(peer);
  }
  return true;
}

void LocalChannel::RunCollective(Kind kind) {
  switch (kind) {
    case Kind::kAllReduceSum:
      return RunAllReduceSum();
    case Kind::kAllToAll:
      return RunAllToAll();
    case Kind::kAllGather:
    case Kind::kTransfers:
      break;
  }
  for (int to = 0; to < size(); ++to) {
    for (int from = 0; from < size(); ++from) {
      const Tensor& in = Head(from)->in;
      std::memcpy(PartOf(Head(to)->out, from, size()), in.data_ptr(), in.nbytes());
    }
  }
}

// In pieces, so that sums take no memory of the size of what is summed.
void LocalChannel::RunAllReduceSum() {
  const c10::InferenceMode inference;
  const int64_t size_of_all = Head(0)->in.numel();
  for (int64_t begin = 0; begin < size_of_all; begin += kSumPiece) {
    const int64_t piece = std::min(kSumPiece, size_of_all - begin);
    const auto piece_of = [&](int rank) { return Head(rank)->in.view(-1).narrow(0, begin, piece); };
    Tensor sum = piece_of(0).to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    for (int rank = 1; rank < size(); ++rank) {
      sum.add_(piece_of(rank));
    }
    for (int rank = 0; rank < size(); ++rank) {
      piece_of(rank).copy_(sum);
    }
  }
}

void LocalChannel::RunAllToAll() {
  for (int to = 0; to < size(); ++to) {
    for (int from = 0; from < size(); ++from) {
      const Tensor& in = Head(from)->in;
      std::memcpy(PartOf(Head(to)->out, from, size()), PartOf(in, to, size()),
                  in.nbytes() / size());
    }
  }
}

bool LocalChannel::TryTransfers(int rank) {
  bool any = false;
  LocalOperation& mine = *Head(rank);
  bool all = true;
  for (size_t i = 0; i < mine.transfers.size(); ++i) {
    if (!mine.moved[i]) {
      const bool moved = TryTransfer(rank, i);
      any |= moved;
      all &= moved;
    }
  }
  if (all) {
    Finish(rank);
  }
  return any || all;
}

bool LocalChannel::TryTransfer(int rank, size_t index) {
  LocalOperation& mine = *Head(rank);
  const Communicator::Transfer& transfer = mine.transfers[index];
  LocalOperation* other = Head(transfer.peer);
  if (other == nullptr || other->kind != Kind::kTransfers) {
    return false;
  }
  for (size_t i = 0; i < other->transfers.size(); ++i) {
    const Communicator::Transfer& candidate = other->transfers[i];
    if (other->moved[i] || candidate.peer != rank || candidate.kind == transfer.kind) {
      continue;
    }
    if (candidate.tensor.nbytes() != transfer.tensor.nbytes()) {
      Fail(absl::StrCat(Describe(rank, mine), " meets rank ", transfer.peer, "'s ", NameOf(*other),
                        " of ", candidate.tensor.nbytes(), " bytes with one of ",
                        transfer.tensor.nbytes()));
    }
    const bool send = transfer.kind == TransferKind::kSend;
    std::memcpy((send ? candidate : transfer).tensor.data_ptr(),
                (send ? transfer : candidate).tensor.data_ptr(), transfer.tensor.nbytes());
    mine.moved[index] = true;
    other->moved[i] = true;
    if (std::find(other->moved.begin(), other->moved.end(), false) == other->moved.end()) {
      Finish(transfer.peer);
    }
    return true;
  }
  return false;
}

std::string LocalChannel::Missing(int rank, const LocalOperation& operation) const {
  std::vector<std::string> heads;
  for (int peer = 0; peer < size(); ++peer) {
    const LocalOperation* head = Head(peer);
    if (peer != rank) {
      heads.push_back(head == nullptr ? absl::StrCat("rank ", peer, " has issued nothing more")
                                      : absl::StrCat("rank ", peer, " is at ", NameOf(*head), " #",
                                                     head->number));
    }
  }
  const LocalOperation* own = Head(rank);
  if (own != nullptr && own != &operation) {
    heads.push_back(absl::StrCat("before it comes ", NameOf(*own), " #", own->number));
  }
  return absl::StrCat("; ", absl::StrJoin(heads, ", "));
}

}  // namespace patchflow
