// The products of gemm_fp8_sm90.h. Compiled once per epilogue: each takes a minute.
#pragma once

#include "engine/kernels/gemm_fp8_sm90.h"
#include "engine/kernels/gemm_sm90.cuh"

namespace patchflow::gemm_fp8_sm90 {

using cutlass::float_e4m3_t;
using gemm_sm90::Apply;
using gemm_sm90::Element;
using gemm_sm90::PerColumn;
using gemm_sm90::Product;
namespace fusion = cutlass::epilogue::fusion;

// A vector along the rows.
template <class Tile>
using PerRow =
    fusion::Sm90ColBroadcast<0, Tile, float, float, cute::Stride<cute::_1, cute::_0, int64_t>>;

// x_scale (weight_scale sum) + bias.
template <class Tile, class Out>
using BiasTree =
    Apply<cutlass::homogeneous_multiply_add, Out, PerRow<Tile>,
          Apply<cutlass::multiplies, float, PerColumn<Tile, float>, fusion::Sm90AccFetch>,
          PerColumn<Tile, Element>>;

// The arguments of its leaves, and of itself.
template <class Arguments>
Arguments BiasArguments(const GemmFp8Args& args) {
  return {{args.x_scale, 1.0F, {}},
          {{args.weight_scale, 1.0F, {}}, {}, {}},
          {static_cast<const Element*>(args.bias), Element(0), {}},
          {}};
}

struct Bias {
  using Source = void;
  template <class Tile>
  using Tree = BiasTree<Tile, Element>;
  template <class Arguments>
  static Arguments Of(const GemmFp8Args& args) {
    return BiasArguments<Arguments>(args);
  }
};

struct BiasGelu {
  using Source = void;
  template <class Tile>
  using Tree = Apply<cutlass::epilogue::thread::GELU_taylor, Element, BiasTree<Tile, float>>;
  template <class Arguments>
  static Arguments Of(const GemmFp8Args& args) {
    Arguments arguments{};
    arguments.op_0 = BiasArguments<decltype(arguments.op_0)>(args);
    return arguments;
  }
};

struct BiasResidual {
  using Source = Element;
  template <class Tile>
  using Tree = Apply<cutlass::homogeneous_multiply_add, Element, PerColumn<Tile, float>,
                     BiasTree<Tile, float>, fusion::Sm90SrcFetch<Element>>;
  template <class Arguments>
  static Arguments Of(const GemmFp8Args& args) {
    Arguments arguments{};
    arguments.op_0 = {args.gate, 1.0F, {}};
    arguments.op_1 = BiasArguments<decltype(arguments.op_1)>(args);
    return arguments;
  }
};

template <class Epilogue>
cudaError_t Launch(const GemmFp8Args& args, cudaStream_t stream) {
  return Product<float_e4m3_t, Epilogue, cute::Shape<cute::_128, cute::_128, cute::_128>,
                 gemm_sm90::Pair, cutlass::gemm::KernelTmaWarpSpecializedPingpongFP8FastAccum,
                 cutlass::epilogue::TmaWarpSpecialized>::Launch(args, stream);
}

}  // namespace patchflow::gemm_fp8_sm90
