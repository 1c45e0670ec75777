// A store in a folder of its own.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "server/store.h"
#include "tests/server/generations.h"
#include "tests/server/scratch_folder.h"

namespace patchflow {

class StoreTest : public ::testing::Test {
 protected:
  StoreTest() { config_.directory = folder_.path("store"); }

  std::unique_ptr<Store> Open() {
    auto store = Store::Open(config_);
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  // Accepted and followed.
  static std::shared_ptr<Generation> Detached(Store& store, GenerationSpec spec) {
    auto generation = MakeGeneration(std::move(spec));
    EXPECT_TRUE(store.Accept(generation, absl::InfiniteDuration()).ok());
    store.Follow(generation);
    EXPECT_TRUE(generation->Start());
    return generation;
  }
  static std::shared_ptr<Generation> Finished(Store& store, const std::string& id,
                                              size_t bytes = 1000) {
    auto generation = Detached(store, TestSpec(id));
    AddImage(*generation, 0, bytes);
    return generation;
  }

  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(config_.directory + "/images")) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

  ScratchFolder folder_;
  StoreConfig config_;
};

}  // namespace patchflow
