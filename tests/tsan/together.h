// Threads for stress tests.
#pragma once

#include <functional>
#include <latch>
#include <thread>
#include <vector>

namespace patchflow {

// Runs each body on a thread of its own. They start at one moment; returns when all have ended.
inline void Together(const std::vector<std::function<void()>>& bodies) {
  std::latch start(static_cast<std::ptrdiff_t>(bodies.size()));
  std::vector<std::thread> threads;
  threads.reserve(bodies.size());
  for (const auto& body : bodies) {
    threads.emplace_back([&start, &body] {
      start.arrive_and_wait();
      body();
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

}  // namespace patchflow
