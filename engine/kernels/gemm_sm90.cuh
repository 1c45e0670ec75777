// The products of gemm_sm90.h and gemm_fp8_sm90.h for one epilogue. Compiled once per epilogue: a
// tile takes a minute.
#pragma once

#define CUTE_SM90_EXTENDED_MMA_SHAPES_ENABLED  // Products of 144 columns.
#include <cutlass/cutlass.h>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/epilogue/dispatch_policy.hpp>
#include <cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
#include <cutlass/util/packed_stride.hpp>

#include "engine/kernels/gemm_sm90.h"

namespace patchflow::gemm_sm90 {

using cute::_1;
using cute::_128;
using cute::_192;
using cute::_2;
using cute::_64;
using cute::Shape;
using _48 = cute::Int<48>;
using _144 = cute::Int<144>;
using Element = cutlass::bfloat16_t;
namespace fusion = cutlass::epilogue::fusion;

constexpr auto kRound = cutlass::FloatRoundStyle::round_to_nearest;
template <class T>
constexpr int kAlignment = 16 / sizeof(T);

// A vector along the columns, zeros without one.
template <class Tile, class T>
using PerColumn = fusion::Sm90RowBroadcast<0, Tile, T, float, cute::Stride<cute::_0, _1, int64_t>>;
template <template <class> class Op, class Out, class... Inputs>
using Apply = fusion::Sm90EVT<fusion::Sm90Compute<Op, Out, float, kRound>, Inputs...>;

// What each epilogue computes, as a tree, and the arguments of its leaves in the order of the tree.
template <class Tile, class Out>
using BiasTree =
    Apply<cutlass::plus, Out, PerColumn<Tile, Element>, fusion::Sm90AccFetch>;  // NOLINT

inline const Element* BiasOf(const GemmSm90Args& args) {
  return static_cast<const Element*>(args.bias);
}

struct Bias {
  using Source = void;
  template <class Tile>
  using Tree = BiasTree<Tile, Element>;
  template <class Arguments>
  static Arguments Of(const GemmSm90Args& args) {
    return {{BiasOf(args), Element(0), {}}, {}, {}};
  }
};

struct BiasGelu {
  using Source = void;
  template <class Tile>
  using Tree = Apply<cutlass::epilogue::thread::GELU_taylor, Element, BiasTree<Tile, float>>;
  template <class Arguments>
  static Arguments Of(const GemmSm90Args& args) {
    return {{{BiasOf(args), Element(0), {}}, {}, {}}, {}};
  }
};

struct BiasResidual {
  using Source = Element;
  template <class Tile>
  using Tree = Apply<cutlass::homogeneous_multiply_add, Element, PerColumn<Tile, float>,
                     BiasTree<Tile, float>, fusion::Sm90SrcFetch<Element>>;
  template <class Arguments>
  static Arguments Of(const GemmSm90Args& args) {
    return {{args.gate, 1.0F, {}}, {{BiasOf(args), Element(0), {}}, {}, {}}, {}, {}};
  }
};

// Thread blocks that share what they load: tiles one below the other.
using Pair = Shape<_2, _1, _1>;

// Operand: what x and the weight hold; y and the residual hold Element. EpilogueTile: what the
// epilogue takes at a time, of which the tile has a whole number.
template <class Operand, class Epilogue, class Tile, class Cluster, class MainSchedule,
          class EpilogueSchedule,
          class EpilogueTile = cutlass::epilogue::collective::EpilogueTileAuto>
struct Product {
  using RowMajor = cutlass::layout::RowMajor;
  using Tree = typename Epilogue::template Tree<Tile>;
  using CollectiveEpilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster, EpilogueTile, float,
      float, typename Epilogue::Source, RowMajor, kAlignment<Element>, Element, RowMajor,
      kAlignment<Element>, EpilogueSchedule, Tree>::CollectiveOp;
  using CollectiveMain = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Operand, RowMajor, kAlignment<Operand>,
      Operand, cutlass::layout::ColumnMajor, kAlignment<Operand>, float, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
          sizeof(typename CollectiveEpilogue::SharedStorage))>,
      MainSchedule>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, CollectiveMain,
                                                      CollectiveEpilogue>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

  template <class Args>
  static cudaError_t Launch(const Args& args, cudaStream_t stream) {
    const auto stride = [](auto kind, int rows, int columns) {
      return cutlass::make_cute_packed_stride(kind, {rows, columns, 1});
    };
    typename Gemm::Arguments arguments{
        cutlass::gemm::GemmUniversalMode::kGemm,
        {args.rows, args.out, args.in, 1},
        {static_cast<const Operand*>(args.x),
         stride(typename Kernel::StrideA{}, args.rows, args.in),
         static_cast<const Operand*>(args.weight),
         stride(typename Kernel::StrideB{}, args.out, args.in)},
        {Epilogue::template Of<typename Tree::Arguments>(args), nullptr,
         stride(typename Kernel::StrideC{}, args.rows, args.out), static_cast<Element*>(args.y),
         stride(typename Kernel::StrideD{}, args.rows, args.out)}};
    if constexpr (!std::is_void_v<typename Epilogue::Source>) {
      arguments.epilogue.ptr_C = static_cast<const Element*>(args.residual);
    }
    if (cudaError_t error = Describe(arguments.hw_info); error != cudaSuccess) {
      return error;
    }
    if (Gemm::can_implement(arguments) != cutlass::Status::kSuccess ||
        Gemm::get_workspace_size(arguments) != 0) {
      return cudaErrorInvalidValue;
    }
    Gemm gemm;
    if (gemm.initialize(arguments, nullptr, stream) != cutlass::Status::kSuccess ||
        gemm.run(stream) != cutlass::Status::kSuccess) {
      const cudaError_t error = cudaGetLastError();
      return error == cudaSuccess ? cudaErrorInvalidValue : error;
    }
    return cudaSuccess;
  }

  static cudaError_t Describe(cutlass::KernelHardwareInfo& device) {
    if (cudaError_t error = cudaGetDevice(&device.device_id); error != cudaSuccess) {
      return error;
    }
    return cudaDeviceGetAttribute(&device.sm_count, cudaDevAttrMultiProcessorCount,
                                  device.device_id);
  }
};

template <class Epilogue>
cudaError_t LaunchTile(const GemmSm90Args& args, GemmTile tile, cudaStream_t stream) {
  using Shared = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
  using SharedEnd = cutlass::epilogue::TmaWarpSpecializedCooperative;
  using Turns = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
  using TurnsEnd = cutlass::epilogue::TmaWarpSpecialized;
  switch (tile) {
    case GemmTile::k128x192:
      return Product<Element, Epilogue, Shape<_128, _192, _64>, Pair, Shared, SharedEnd>::Launch(
          args, stream);
    case GemmTile::k128x144:
      return Product<Element, Epilogue, Shape<_128, _144, _64>, Pair, Shared, SharedEnd,
                     Shape<_128, _48>>::Launch(args, stream);
    case GemmTile::k64x192InTurns:
      if constexpr (std::is_same_v<Epilogue, BiasResidual>) {
        return Product<Element, Epilogue, Shape<_64, _192, _64>, Pair, Turns, TurnsEnd>::Launch(
            args, stream);
      }
      break;
    case GemmTile::k128x192Overlapped:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace patchflow::gemm_sm90
