// Depthwise causal conv1d with SiLU: out[l] = silu(bias + sum_k weight[k] x[l - width + 1 + k]),
// forward and backward. A tile of 32 steps and 32 channels, with the neighbors that it needs, goes
// through shared memory, so every element is read from global memory about once whichever of the
// two dimensions is contiguous there.
#include "device.cuh"

namespace vmb::cuda {
namespace {

constexpr int kSteps = kConvSteps;
constexpr int kRow = kChannels + 1;  // without bank conflicts for lanes along the steps

// The position of a block, and the distribution of kChannels channels of some steps over its
// threads: lanes run along the contiguous dimension.
struct Tile {
  int batch, first_channel, lane, warp, channels;
  bool along_steps;

  VMB_DEVICE explicit Tile(const ConvArgs& in) {
    const unsigned blocks = static_cast<unsigned>((in.dim + kChannels - 1) / kChannels);
    batch = static_cast<int>(blockIdx.x / blocks),
    first_channel = static_cast<int>(blockIdx.x % blocks) * kChannels;
    lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    channels = min(kChannels, static_cast<int>(in.dim) - first_channel);
    along_steps = steps_innermost(in.x);
  }
  // Calls f(channel, first, stride) for every channel of which the thread has the steps first,
  // first + stride, ...
  template <class F>
  VMB_DEVICE void for_each_channel(const F& f) const {
    if (along_steps) {
      for (int channel = warp; channel < channels; channel += kWarps) f(channel, lane, 32);
    } else if (lane < channels) {
      f(lane, warp, kWarps);
    }
  }
};

template <class T>
VMB_DEVICE T* channel_row(const Operand& x, const Tile& tile, int channel, int step) {
  return static_cast<T*>(x.data) + (tile.batch * static_cast<int>(x.batch) +
                                    (tile.first_channel + channel) * static_cast<int>(x.row) +
                                    step * static_cast<int>(x.step));
}

// Loads `steps` steps from `start` on; zeros outside the sequence.
template <class T, int kRows>
VMB_DEVICE void load_tile(float (&to)[kRows][kRow], const Operand& x, const Tile& tile, int start,
                          int steps, int length) {
  tile.for_each_channel([&](int channel, int first, int stride) {
    const T* const row = channel_row<const T>(x, tile, channel, start);
    for (int step = first; step < steps; step += stride)
      to[step][channel] = static_cast<unsigned>(start + step) < static_cast<unsigned>(length)
                              ? to_float(row[step * static_cast<int>(x.step)])
                              : 0.0f;
  });
}

// A channel's weights, after kWidth - width zeros, and its bias.
template <int kWidth>
struct Taps {
  float weight[kWidth], bias;

  VMB_DEVICE Taps(const ConvArgs& in, const Tile& tile, int channel) {
    const int width = static_cast<int>(in.width), missing = kWidth - width;
    const float* const weights = in.weight + (tile.first_channel + channel) * width;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) weight[k] = k < missing ? 0.0f : weights[k - missing];
    bias = in.bias ? in.bias[tile.first_channel + channel] : 0.0f;
  }
  // The convolution's value at the step whose first tap is xs[first].
  template <int kRows>
  VMB_DEVICE float convolve(const float (&xs)[kRows][kRow], int first, int channel) const {
    float sum = bias;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum = fmaf(weight[k], xs[first + k][channel], sum);
    return sum;
  }
};

// kWidth: 4, or 8 for kernels wider than that.
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    conv_forward_kernel(const Problems<ConvForwardArgs> all) {
  const ConvForwardArgs& args = all.of[blockIdx.y];
  const ConvArgs& in = args.in;
  __shared__ float xs[kSteps + kWidth - 1][kRow];
  const Tile tile(in);
  const int length = static_cast<int>(in.length), start = static_cast<int>(blockIdx.z) * kSteps,
            steps = min(kSteps, length - start);
  load_tile<T>(xs, in.x, tile, start - (kWidth - 1), steps + kWidth - 1, length);
  __syncthreads();
  tile.for_each_channel([&](int channel, int first, int stride) {
    const Taps<kWidth> taps(in, tile, channel);
    T* const out = channel_row<T>(args.out, tile, channel, start);
    for (int step = first; step < steps; step += stride) {
      const float y = taps.convolve(xs, step, channel);
      assign(out[step * static_cast<int>(args.out.step)], y * sigmoid(y));
    }
  });
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    conv_backward_kernel(const Problems<ConvBackwardArgs> all) {
  const ConvBackwardArgs& args = all.of[blockIdx.y];
  const ConvArgs& in = args.in;
  constexpr int kHalo = kWidth - 1;
  // Inputs from kHalo steps before the tile to kHalo steps behind it.
  __shared__ float xs[kSteps + 2 * kHalo][kRow];
  // Gradient of the convolution's value, from the tile's first step on.
  __shared__ float gs[kSteps + kHalo][kRow];
  const Tile tile(in);
  const int length = static_cast<int>(in.length);
  float dweight[kWidth] = {}, dbias = 0.0f;

  // Of a chunk.
  const int tiles = ((length + kSteps - 1u) / kSteps + gridDim.z - 1) / gridDim.z;
  const int first_step = static_cast<int>(blockIdx.z) * tiles * kSteps,
            end = min(length, first_step + tiles * kSteps);
  for (int start = first_step; start < end; start += kSteps) {
    const int steps = min(kSteps, length - start);
    load_tile<T>(xs, in.x, tile, start - kHalo, kSteps + 2 * kHalo, length);
    load_tile<T>(gs, args.dout, tile, start, kSteps + kHalo, length);
    __syncthreads();
    // Where there is no step, dout is zero, and so is the gradient.
    tile.for_each_channel([&](int channel, int first, int stride) {
      const Taps<kWidth> taps(in, tile, channel);
      for (int step = first; step < kSteps + kHalo; step += stride) {
        const float y = taps.convolve(xs, step, channel), s = sigmoid(y);
        gs[step][channel] *= s * fmaf(y, 1.0f - s, 1.0f);
      }
    });
    __syncthreads();
    tile.for_each_channel([&](int channel, int first, int stride) {
      const Taps<kWidth> taps(in, tile, channel);
      T* const dx = channel_row<T>(args.dx, tile, channel, start);
      for (int step = first; step < steps; step += stride) {
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < kWidth; ++k)
          sum = fmaf(taps.weight[k], gs[step + kHalo - k][channel], sum);
        assign(dx[step * static_cast<int>(args.dx.step)], sum);
      }
    });
    // A lane sums its channel over the warp's quarter of the steps; rows after the last step are
    // zeros.
    if (tile.lane < tile.channels) {
#pragma unroll
      for (int i = 0; i < kSteps / kWarps; ++i) {
        const int step = tile.warp * (kSteps / kWarps) + i;
        const float g = gs[step][tile.lane];
        dbias += g;
#pragma unroll
        for (int k = 0; k < kWidth; ++k) dweight[k] = fmaf(g, xs[step + k][tile.lane], dweight[k]);
      }
    }
    __syncthreads();
  }

  // Adds the warps' sums in order.
  float (*const parts)[kWidth + 1][kChannels] =
      reinterpret_cast<float (*)[kWidth + 1][kChannels]>(xs);
  static_assert(kWarps * (kWidth + 1) * kChannels <= (kSteps + 2 * kHalo) * kRow,
                "the partial sums fit into the tile");
#pragma unroll
  for (int k = 0; k < kWidth; ++k) parts[tile.warp][k][tile.lane] = dweight[k];
  parts[tile.warp][kWidth][tile.lane] = dbias;
  __syncthreads();
  const int width = static_cast<int>(in.width), missing = kWidth - width;
  for (int i = threadIdx.x; i < (kWidth + 1) * kChannels; i += kThreads) {
    const int k = i / kChannels, lane = i % kChannels;
    if (lane >= tile.channels) continue;
    float sum = 0.0f;
    for (int w = 0; w < kWarps; ++w) sum += parts[w][k][lane];
    const int64_t row =
        static_cast<int64_t>(tile.batch * gridDim.z + blockIdx.z) * in.dim + tile.first_channel +
        lane;
    if (k == kWidth) {
      if (args.dbias) args.dbias[row] = sum;
    } else if (k >= missing) {
      args.dweight[row * width + k - missing] = sum;
    }
  }
}

template <class Args>
int launch(void (*f32_kernel)(Problems<Args>), void (*f16_kernel)(Problems<Args>),
           void (*bf16_kernel)(Problems<Args>), const Args* args, int count, Type type,
           int64_t parts, void* stream) {
  const ConvArgs& in = args->in;
  const int64_t blocks = in.batch * ((in.dim + kChannels - 1) / kChannels);
  if (blocks == 0 || in.length == 0) return cudaSuccess;
  if (blocks > 0x7fffffff || parts > 0xffff || in.width > kMaxConvWidth)
    return cudaErrorInvalidConfiguration;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(count),
                  static_cast<unsigned>(parts));
  const auto kernel = of_type(type, f32_kernel, f16_kernel, bf16_kernel);
  kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(problems(args, count));
  return cudaGetLastError();
}

}  // namespace

int conv_forward(const ConvForwardArgs* args, int count, Type type, void* stream) {
  const int64_t tiles = (args->in.length + kSteps - 1) / kSteps;
  if (args->in.width <= 4)
    return launch(conv_forward_kernel<float, 4>, conv_forward_kernel<f16, 4>,
                  conv_forward_kernel<bf16, 4>, args, count, type, tiles, stream);
  return launch(conv_forward_kernel<float, kMaxConvWidth>, conv_forward_kernel<f16, kMaxConvWidth>,
                conv_forward_kernel<bf16, kMaxConvWidth>, args, count, type, tiles, stream);
}

int conv_backward(const ConvBackwardArgs* args, int count, Type type, void* stream) {
  const int64_t chunks = conv_chunks(args->in.batch, args->in.dim, args->in.length);
  if (args->in.width <= 4)
    return launch(conv_backward_kernel<float, 4>, conv_backward_kernel<f16, 4>,
                  conv_backward_kernel<bf16, 4>, args, count, type, chunks, stream);
  return launch(conv_backward_kernel<float, kMaxConvWidth>,
                conv_backward_kernel<f16, kMaxConvWidth>, conv_backward_kernel<bf16, kMaxConvWidth>,
                args, count, type, chunks, stream);
}

}  // namespace vmb::cuda
