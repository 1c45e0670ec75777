// One layout, one network and one job: what the tests of the methods run.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/parallel/run_layout.h"
#include "tests/parallel/toy_transformer.h"

namespace patchflow {

// The same sums in the same order: equal to the bit, on CPUs.
constexpr double kSameOrder = 0;
// float32 sums in another order: of features over tensor ranks, of keys over ring ranks or in
// another order of tokens, of products whose number of rows or columns MKL has another kernel for.
constexpr double kReordered = 1e-5;
// Instead of both on GPUs, where cuBLAS and attention choose kernels by the number of rows: in
// float32 and in bfloat16.
constexpr double kGpuFloat = 5e-5;
constexpr double kHalfPrecision = 5e-2;

struct MethodCase {
  std::string layout;
  double tolerance = kSameOrder;  // Of RelativeError().
  JobOptions job = {};
  ToyOptions toy = {};
  bool bundled = false;  // The bundled model instead of the toy.
};

// For INSTANTIATE_TEST_SUITE_P.
std::string CaseName(const testing::TestParamInfo<MethodCase>& info);

struct Network {
  TransformerConfig config;
  TestModel make;
};
Network NetworkOf(const MethodCase& c);

// The case's job by its layout; with communicators that run operations at once, and at the latest
// moment, which must not differ.
Tensor RunCase(const MethodCase& c);

// Against the engine's own loop on one device.
void ExpectEqualsSerial(const MethodCase& c);

// Against a stale method's recurrence on one whole model.
using Oracle =
    std::function<Tensor(const Transformer& whole, const DenoiseJob& job, const Layout& layout)>;
void ExpectEqualsOracle(const MethodCase& c, const Oracle& oracle);

// Another request, and one stopped before each of its steps, leave nothing behind: the ranks stop
// together, and the same job makes the same latents on the same denoiser before and after.
void ExpectRequestsLeaveNothingBehind(const MethodCase& c);

// The cases that run here: NCCL has as many ranks as there are GPUs.
std::vector<MethodCase> ThatFit(std::vector<MethodCase> cases);

}  // namespace patchflow
