#include "tests/parallel/memory_meter.h"

#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>

namespace patchflow {
namespace {

constexpr uint8_t kPriority = 1;

thread_local MemoryMeter* meter_of_thread = nullptr;

struct MeteredBlock {
  c10::DataPtr inner;
  int64_t bytes;
  MemoryMeter& meter;
};

void Free(void* context) {
  const std::unique_ptr<MeteredBlock> block(static_cast<MeteredBlock*>(context));
  block->meter.Add(-block->bytes);
}

class MeteringAllocator final : public c10::Allocator {
 public:
  explicit MeteringAllocator(c10::Allocator& inner) : inner_(inner) {}

  c10::DataPtr allocate(size_t bytes) override {
    c10::DataPtr data = inner_.allocate(bytes);
    if (meter_of_thread == nullptr) {
      return data;
    }
    void* const begin = data.get();
    const auto device = data.device();
    auto block = std::make_unique<MeteredBlock>(
        MeteredBlock{std::move(data), static_cast<int64_t>(bytes), *meter_of_thread});
    block->meter.Add(block->bytes);
    return {begin, block.release(), &Free, device};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  c10::Allocator& inner_;
};

}  // namespace

void MemoryMeter::Add(int64_t bytes) {
  const int64_t live = live_ += bytes;
  int64_t peak = peak_;
  while (live > peak && !peak_.compare_exchange_weak(peak, live)) {
  }
}

MeteredThread::MeteredThread(MemoryMeter& meter) {
  static std::once_flag once;
  std::call_once(once, [] {
    static MeteringAllocator allocator(*c10::GetCPUAllocator());
    c10::SetCPUAllocator(&allocator, kPriority);
  });
  meter_of_thread = &meter;
}

MeteredThread::~MeteredThread() { meter_of_thread = nullptr; }

}  // namespace patchflow
