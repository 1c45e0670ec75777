#include <algorithm>
#include <cstdint>

#include "engine/vae/numbers.cuh"
#include "engine/vae/row_kernels.h"

namespace patchflow {
namespace {

constexpr int kThreads = 256;
constexpr int kWantedBlocks = 2048;
constexpr int kMinSegmentPixels = 32;
constexpr int kMergeThreads = 128;

template <typename T, int V, bool kSilu>
__global__ void Normalize(NormalizeKernel p) {
  using Pixels = Vector<T, V>;
  const int channel = static_cast<int>(threadIdx.x) * V;
  const int per_group = p.channels / p.groups;
  float scale[V];
  float shift[V];
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const int group = (channel + i) / per_group;
    scale[i] = p.gamma[channel + i] * rsqrtf(p.m2[group] * p.inverse_count + p.epsilon);
    shift[i] = p.beta[channel + i] - p.mean[group] * scale[i];
  }
  const T* x = static_cast<const T*>(p.x.data) + blockIdx.y * p.x.row_stride + channel;
  T* out = static_cast<T*>(p.out.data) + blockIdx.y * p.out.row_stride + channel;
  const int step = static_cast<int>(gridDim.x * blockDim.y);
  for (int column = static_cast<int>(blockIdx.x * blockDim.y + threadIdx.y); column < p.width;
       column += step) {
    const int64_t offset = static_cast<int64_t>(column) * p.channels;
    Pixels pixels = *reinterpret_cast<const Pixels*>(x + offset);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      float y = ToFloat(pixels.at[i]) * scale[i] + shift[i];
      if (kSilu) y = __fdividef(y, 1.0F + __expf(-y));
      pixels.at[i] = FromFloat<T>(y);
    }
    *reinterpret_cast<Pixels*>(out + offset) = pixels;
  }
}

__host__ __device__ int SegmentBegin(int width, int segments, int segment) {
  return static_cast<int>(static_cast<int64_t>(width) * segment / segments);
}

// Statistics of one channel over the pixels of one thread, by differences from the first of them.
template <int V>
struct ChannelSums {
  float pivot[V];
  float first[V];
  float second[V];
  int count = 0;

  __device__ void Add(int i, float value) {
    if (count == 0) {
      pivot[i] = value;
      first[i] = 0;
      second[i] = 0;
    } else {
      const float difference = value - pivot[i];
      first[i] += difference;
      second[i] += difference * difference;
    }
  }
};

// Merges the threads of a block into the groups of its segment.
template <int V>
__device__ void WriteGroups(const StoreKernel& p, const ChannelSums<V>& sums) {
  extern __shared__ float shared[];
  float* means = shared;                          // [blockDim.y, C]
  float* m2s = means + blockDim.y * p.channels;   // [blockDim.y, C]
  float* counts = m2s + blockDim.y * p.channels;  // [blockDim.y]
  const int channel = static_cast<int>(threadIdx.x) * V;
  const float inverse = sums.count > 0 ? 1.0F / static_cast<float>(sums.count) : 0.0F;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const int at = static_cast<int>(threadIdx.y) * p.channels + channel + i;
    means[at] = sums.count > 0 ? sums.pivot[i] + sums.first[i] * inverse : 0.0F;
    m2s[at] = sums.count > 0 ? fmaxf(0.0F, sums.second[i] - sums.first[i] * sums.first[i] * inverse)
                             : 0.0F;
  }
  if (threadIdx.x == 0) counts[threadIdx.y] = static_cast<float>(sums.count);
  __syncthreads();

  const int per_group = p.channels / p.groups;
  const int pixels = SegmentBegin(p.width, p.segments, static_cast<int>(blockIdx.x) + 1) -
                     SegmentBegin(p.width, p.segments, static_cast<int>(blockIdx.x));
  const float inverse_total = 1.0F / (static_cast<float>(pixels) * static_cast<float>(per_group));
  const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  for (int group = thread; group < p.groups; group += static_cast<int>(blockDim.x * blockDim.y)) {
    float mean = 0;
    for (unsigned y = 0; y < blockDim.y; ++y) {
      float sum = 0;
      for (int c = 0; c < per_group; ++c) sum += means[y * p.channels + group * per_group + c];
      mean += sum * counts[y];
    }
    mean *= inverse_total;
    float m2 = 0;
    for (unsigned y = 0; y < blockDim.y; ++y) {
      for (int c = 0; c < per_group; ++c) {
        const unsigned at = y * p.channels + group * per_group + c;
        const float difference = means[at] - mean;
        m2 += m2s[at] + counts[y] * difference * difference;
      }
    }
    float* part =
        p.partials +
        2 * ((static_cast<int64_t>(blockIdx.y) * p.segments + blockIdx.x) * p.groups + group);
    part[0] = mean;
    part[1] = m2;
  }
}

template <typename T, int V, bool kPhases, bool kAdd, bool kMoments>
__global__ void Store(StoreKernel p) {
  using Pixels = Vector<T, V>;
  const int channel = static_cast<int>(threadIdx.x) * V;
  const int row = static_cast<int>(blockIdx.y);
  float bias[V];
#pragma unroll
  for (int i = 0; i < V; ++i) bias[i] = p.bias[channel + i];
  const T* from = static_cast<const T*>(p.from) + channel +
                  (kPhases ? (row / 2 + (row & 1)) * p.from_row + (row & 1) * 2 * p.channels
                           : row * p.from_row);
  T* to = static_cast<T*>(p.to.data) + row * p.to.row_stride + channel;
  ChannelSums<V> sums;
  const int end = SegmentBegin(p.width, p.segments, static_cast<int>(blockIdx.x) + 1);
  for (int column = SegmentBegin(p.width, p.segments, static_cast<int>(blockIdx.x)) +
                    static_cast<int>(threadIdx.y);
       column < end; column += static_cast<int>(blockDim.y)) {
    const T* source =
        kPhases ? from + (column / 2 + (column & 1)) * p.from_pixel + (column & 1) * p.channels
                : from + column * p.from_pixel;
    T* target = to + static_cast<int64_t>(column) * p.channels;
    Pixels pixels = *reinterpret_cast<const Pixels*>(source);
    Pixels held;
    if (kAdd) held = *reinterpret_cast<const Pixels*>(target);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      float value = ToFloat(pixels.at[i]) + bias[i];
      if (kAdd) value += ToFloat(held.at[i]);
      pixels.at[i] = FromFloat<T>(value);
      if (kMoments) sums.Add(i, ToFloat(pixels.at[i]));
    }
    if (kMoments) ++sums.count;
    *reinterpret_cast<Pixels*>(target) = pixels;
  }
  if (kMoments) WriteGroups<V>(p, sums);
}

__device__ double BlockSum(double value) {
  __shared__ double sums[kMergeThreads];
  __syncthreads();
  sums[threadIdx.x] = value;
  __syncthreads();
  for (unsigned half = kMergeThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  return sums[0];
}

__global__ void Merge(MergeKernel p) {
  const int group = static_cast<int>(blockIdx.x);
  const int parts = p.rows * p.segments;
  const auto count_of = [&](int part) {
    const int segment = part % p.segments;
    return static_cast<double>(SegmentBegin(p.width, p.segments, segment + 1) -
                               SegmentBegin(p.width, p.segments, segment)) *
           p.channels_per_group;
  };
  const auto part_at = [&](int part) {
    return p.partials + 2 * (static_cast<int64_t>(part) * p.groups + group);
  };
  const double added = static_cast<double>(p.rows) * p.width * p.channels_per_group;
  double sum = 0;
  for (int part = static_cast<int>(threadIdx.x); part < parts; part += kMergeThreads) {
    sum += count_of(part) * part_at(part)[0];
  }
  const double mean = BlockSum(sum) / added;
  sum = 0;
  for (int part = static_cast<int>(threadIdx.x); part < parts; part += kMergeThreads) {
    const double difference = part_at(part)[0] - mean;
    sum += part_at(part)[1] + count_of(part) * difference * difference;
  }
  const double m2 = BlockSum(sum);
  if (threadIdx.x == 0) {
    const double total = p.count + added;
    const double difference = mean - p.mean[group];
    p.m2[group] =
        static_cast<float>(p.m2[group] + m2 + difference * difference * p.count * added / total);
    p.mean[group] = static_cast<float>(p.mean[group] + difference * added / total);
  }
}

bool Aligned(const void* pointer, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0;
}

template <typename T>
constexpr int WidestVector() {
  return 16 / static_cast<int>(sizeof(T));
}

template <typename T>
bool TakesVectors(const DeviceRows& rows, int channels) {
  return channels % WidestVector<T>() == 0 && rows.row_stride % WidestVector<T>() == 0 &&
         Aligned(rows.data, 16);
}

dim3 ThreadsFor(int channels, int vector) {
  const int lanes = channels / vector;
  return dim3(static_cast<unsigned>(lanes), static_cast<unsigned>(std::max(1, kThreads / lanes)));
}

template <typename T, int V>
cudaError_t LaunchNormalize(const NormalizeKernel& p, cudaStream_t stream) {
  const dim3 threads = ThreadsFor(p.channels, V);
  const dim3 blocks(static_cast<unsigned>(StoreSegments(p.rows, p.width)),
                    static_cast<unsigned>(p.rows));
  if (p.silu) {
    Normalize<T, V, true><<<blocks, threads, 0, stream>>>(p);
  } else {
    Normalize<T, V, false><<<blocks, threads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

template <typename T>
cudaError_t LaunchNormalizeOf(const NormalizeKernel& p, cudaStream_t stream) {
  if (TakesVectors<T>(p.x, p.channels) && TakesVectors<T>(p.out, p.channels)) {
    return LaunchNormalize<T, WidestVector<T>()>(p, stream);
  }
  return LaunchNormalize<T, 1>(p, stream);
}

template <typename T, int V, bool kPhases, bool kAdd>
cudaError_t LaunchStore(const StoreKernel& p, cudaStream_t stream) {
  const dim3 threads = ThreadsFor(p.channels, V);
  const dim3 blocks(static_cast<unsigned>(p.segments), static_cast<unsigned>(p.rows));
  if (p.partials == nullptr) {
    Store<T, V, kPhases, kAdd, false><<<blocks, threads, 0, stream>>>(p);
  } else {
    const size_t shared = (2 * static_cast<size_t>(p.channels) + 1) * threads.y * sizeof(float);
    Store<T, V, kPhases, kAdd, true><<<blocks, threads, shared, stream>>>(p);
  }
  return cudaGetLastError();
}

template <typename T, int V>
cudaError_t LaunchStoreBy(const StoreKernel& p, cudaStream_t stream) {
  if (p.phases) {
    return p.add ? LaunchStore<T, V, true, true>(p, stream)
                 : LaunchStore<T, V, true, false>(p, stream);
  }
  return p.add ? LaunchStore<T, V, false, true>(p, stream)
               : LaunchStore<T, V, false, false>(p, stream);
}

template <typename T>
cudaError_t LaunchStoreOf(const StoreKernel& p, cudaStream_t stream) {
  constexpr int kVector = WidestVector<T>();
  const bool vectors = TakesVectors<T>(p.to, p.channels) && p.from_row % kVector == 0 &&
                       p.from_pixel % kVector == 0 && Aligned(p.from, 16);
  return vectors ? LaunchStoreBy<T, kVector>(p, stream) : LaunchStoreBy<T, 1>(p, stream);
}

}  // namespace

int StoreSegments(int rows, int width) {
  const int most = std::max(1, width / kMinSegmentPixels);
  return std::min(most, (kWantedBlocks + rows - 1) / rows);
}

cudaError_t Launch(const NormalizeKernel& kernel, cudaStream_t stream) {
  switch (kernel.element) {
    case Element::kFloat:
      return LaunchNormalizeOf<float>(kernel, stream);
    case Element::kHalf:
      return LaunchNormalizeOf<__half>(kernel, stream);
    case Element::kBFloat16:
      break;
  }
  return LaunchNormalizeOf<__nv_bfloat16>(kernel, stream);
}

cudaError_t Launch(const StoreKernel& kernel, cudaStream_t stream) {
  switch (kernel.element) {
    case Element::kFloat:
      return LaunchStoreOf<float>(kernel, stream);
    case Element::kHalf:
      return LaunchStoreOf<__half>(kernel, stream);
    case Element::kBFloat16:
      break;
  }
  return LaunchStoreOf<__nv_bfloat16>(kernel, stream);
}

cudaError_t Launch(const MergeKernel& kernel, cudaStream_t stream) {
  Merge<<<static_cast<unsigned>(kernel.groups), kMergeThreads, 0, stream>>>(kernel);
  return cudaGetLastError();
}

}  // namespace patchflow
