// Tensors that the scripts of tests/golden wrote.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>

#include "engine/weights/safetensors.h"

namespace patchflow {

inline std::filesystem::path GoldenDir() { return "tests/golden"; }

class GoldenFile {
 public:
  explicit GoldenFile(const std::filesystem::path& below_golden_dir) {
    auto file = SafetensorsFile::Open(GoldenDir() / below_golden_dir);
    if (!file.ok()) {
      throw std::runtime_error(std::string(file.status().message()));
    }
    file_ = *std::move(file);
  }

  bool Has(const std::string& name) const { return file_->tensors().contains(name); }

  at::Tensor Get(const std::string& name) const {
    const StoredTensor& stored = file_->tensors().at(name);
    return at::from_blob(stored.data, stored.shape, at::TensorOptions().dtype(stored.dtype))
        .clone();
  }

 private:
  std::shared_ptr<const SafetensorsFile> file_;
};

// Largest difference over the largest magnitude expected.
inline double RelativeDifference(const at::Tensor& found, const at::Tensor& expected) {
  EXPECT_EQ(found.sizes(), expected.sizes());
  if (found.sizes() != expected.sizes()) {
    return 1;
  }
  const auto wide = [](const at::Tensor& x) { return x.to(at::kDouble); };
  const double difference = (wide(found) - wide(expected)).abs().max().item<double>();
  return difference / std::max(wide(expected).abs().max().item<double>(), 1e-30);
}

}  // namespace patchflow
