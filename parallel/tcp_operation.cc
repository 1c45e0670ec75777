#include "parallel/tcp_operation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

namespace patchflow {
namespace {

using Kind = LocalOperation::Kind;
using Transfer = Communicator::Transfer;

constexpr size_t kMaxDims = 16;
constexpr int64_t kNumbersOfTransfer = 3;
constexpr int64_t kMaxTransferBytes = int64_t{1} << 40;

[[noreturn]] void Refuse() {
  throw CommunicatorError("a process of another build takes part: what it asks for is unknown");
}

LocalOperation TransfersOf(const std::vector<int64_t>& numbers, int rank, int size) {
  LocalOperation operation{.kind = Kind::kTransfers};
  for (size_t i = 1; i + kNumbersOfTransfer <= numbers.size(); i += kNumbersOfTransfer) {
    const int64_t peer = numbers[i + 1];
    const int64_t bytes = numbers[i + 2];
    if (peer < 0 || peer >= size || peer == rank || bytes < 0 || bytes > kMaxTransferBytes) {
      Refuse();
    }
    operation.transfers.push_back({numbers[i] == 0 ? Transfer::Kind::kSend : Transfer::Kind::kRecv,
                                   at::empty({bytes}, at::kByte), static_cast<int>(peer)});
  }
  operation.moved.resize(operation.transfers.size());
  return operation;
}

}  // namespace

std::string PackNumbers(const std::vector<int64_t>& numbers) {
  return {reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(int64_t)};
}

std::vector<int64_t> UnpackNumbers(const std::string& text) {
  if (text.size() % sizeof(int64_t) != 0) {
    Refuse();
  }
  std::vector<int64_t> numbers(text.size() / sizeof(int64_t));
  std::memcpy(numbers.data(), text.data(), text.size());
  return numbers;
}

std::string DescribeOperation(const LocalOperation& operation) {
  std::vector<int64_t> numbers = {static_cast<int64_t>(operation.kind)};
  if (operation.kind != Kind::kTransfers) {
    numbers.push_back(static_cast<int64_t>(operation.in.scalar_type()));
    const at::IntArrayRef sizes = operation.in.sizes();
    numbers.insert(numbers.end(), sizes.begin(), sizes.end());
  }
  for (const Transfer& transfer : operation.transfers) {
    numbers.push_back(transfer.kind == Transfer::Kind::kSend ? 0 : 1);
    numbers.push_back(transfer.peer);
    numbers.push_back(static_cast<int64_t>(transfer.tensor.nbytes()));
  }
  return PackNumbers(numbers);
}

std::vector<Tensor> InputsOf(const LocalOperation& operation) {
  if (operation.kind != Kind::kTransfers) {
    return {operation.in};
  }
  std::vector<Tensor> sent;
  for (const Transfer& transfer : operation.transfers) {
    if (transfer.kind == Transfer::Kind::kSend) {
      sent.push_back(transfer.tensor);
    }
  }
  return sent;
}

std::vector<Tensor> OutputsOf(const LocalOperation& operation) {
  if (operation.kind != Kind::kTransfers) {
    return {operation.out};
  }
  std::vector<Tensor> received;
  for (const Transfer& transfer : operation.transfers) {
    if (transfer.kind == Transfer::Kind::kRecv) {
      received.push_back(transfer.tensor);
    }
  }
  return received;
}

LocalOperation OperationOf(const std::string& description, int rank, int size) {
  const std::vector<int64_t> numbers = UnpackNumbers(description);
  if (numbers.empty()) {
    Refuse();
  }
  const auto kind = static_cast<Kind>(numbers[0]);
  if (kind == Kind::kTransfers) {
    return TransfersOf(numbers, rank, size);
  }
  if (numbers[0] < 0 || kind > Kind::kTransfers || numbers.size() < 2 ||
      numbers.size() > 2 + kMaxDims || numbers[1] < 0 ||
      numbers[1] >= static_cast<int64_t>(at::ScalarType::Undefined) ||
      std::any_of(numbers.begin() + 2, numbers.end(), [](int64_t n) { return n < 0; })) {
    Refuse();
  }
  std::vector<int64_t> sizes(numbers.begin() + 2, numbers.end());
  LocalOperation operation{.kind = kind};
  operation.in = at::empty(sizes, static_cast<at::ScalarType>(numbers[1]));
  if (kind == Kind::kAllGather) {
    sizes.insert(sizes.begin(), size);
    operation.out = at::empty(sizes, operation.in.scalar_type());
  } else if (kind == Kind::kAllToAll) {
    operation.out = at::empty_like(operation.in);
  } else {
    operation.out = operation.in;
  }
  return operation;
}

}  // namespace patchflow
