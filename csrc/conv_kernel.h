// silu(causal depthwise convolution) on CPU, vectorised over channels; included once per instruction set.
#pragma once

#include "scan_kernel.h"

namespace {

template <class T, int W>
struct CausalConv {
  using V = Vec<T, W>;
  using Rows = Scan<T, W, 1>;  // packing and unpacking of channel rows
  static constexpr int64_t kHalo = kMaxConvWidth - 1;

  struct Workspace {
    V x[kChunk + kHalo];     // inputs of the chunk, preceded by the width - 1 inputs before it
    V out[kChunk + kHalo];   // forward: outputs; backward: gradients before the activation, followed by the next chunk's first
    V dout[kChunk];
    V weight[kMaxConvWidth], dweight[kMaxConvWidth];
  };

  template <class F>
  static void for_blocks(const Conv<T>& in, int64_t begin, int64_t end, F&& each) {
    const ScanSizes size{in.batch, in.dim, in.length, 0};
    for (int64_t index = begin; index < end; ++index) {
      const typename Rows::Item item(size, index);
      for (int64_t block = 0; block < item.blocks; ++block) {
        const int64_t channel = item.first_channel + block * W;
        each(item.batch, channel, Rows::lanes_of(size, channel));
      }
    }
  }

  static void pack_weight(V* rows, const Conv<T>& in, int64_t channel, int lanes) {
    for (int64_t k = 0; k < in.width; ++k) {
      rows[k] = V{};
      for (int c = 0; c < lanes; ++c) rows[k][c] = *in.weight.at(0, channel + c, k);
    }
  }

  // x[0 .. steps + width - 1): the chunk's inputs behind those that the first outputs look back at.
  static void pack_input(V* x, const Conv<T>& in, int64_t b, int64_t channel, int lanes, int64_t step, int64_t steps) {
    const int64_t back = in.width - 1, missing = step < back ? back - step : 0;
    for (int64_t t = 0; t < missing; ++t) x[t] = V{};
    Rows::pack(x + missing, in.x, b, channel, lanes, step - back + missing, steps + back - missing);
  }

  static V preactivation(const Workspace& w, V bias, int64_t width, int64_t t) {
    for (int64_t k = 0; k < width; ++k) bias += w.weight[k] * w.x[t + k];
    return bias;
  }

  static void forward(const Conv<T>& in, const View<T>& out, int64_t begin, int64_t end, void* memory) {
    Workspace& w = *static_cast<Workspace*>(memory);
    for_blocks(in, begin, end, [&](int64_t b, int64_t channel, int lanes) {
      pack_weight(w.weight, in, channel, lanes);
      const V bias = Rows::pack_channels(in.bias, channel, lanes);
      for (int64_t step = 0; step < in.length; step += kChunk) {
        const int64_t steps = in.length - step < kChunk ? in.length - step : kChunk;
        pack_input(w.x, in, b, channel, lanes, step, steps);
        for (int64_t t = 0; t < steps; ++t) {
          V value = preactivation(w, bias, in.width, t), gate;
          sigmoids<1>(&value, &gate);
          w.out[t] = value * gate;
        }
        Rows::unpack(w.out, out, b, channel, lanes, step, steps);
      }
    });
  }

  static void backward(const ConvBackward<T>& args, int64_t begin, int64_t end, void* memory) {
    const Conv<T>& in = args.in;
    Workspace& w = *static_cast<Workspace*>(memory);
    for_blocks(in, begin, end, [&](int64_t b, int64_t channel, int lanes) {
      pack_weight(w.weight, in, channel, lanes);
      const V bias = Rows::pack_channels(in.bias, channel, lanes);
      V dbias{};
      for (int64_t k = 0; k < in.width; ++k) w.dweight[k] = V{};
      for (int64_t k = 0; k < in.width - 1; ++k) w.out[k] = V{};
      const int64_t chunks = (in.length + kChunk - 1) / kChunk;
      for (int64_t step = (chunks - 1) * kChunk; step >= 0; step -= kChunk) {
        const int64_t steps = in.length - step < kChunk ? in.length - step : kChunk;
        // The later chunk's first gradients move behind this chunk's.
        for (int64_t k = in.width - 2; k >= 0; --k) w.out[steps + k] = w.out[k];
        pack_input(w.x, in, b, channel, lanes, step, steps);
        Rows::pack(w.dout, args.dout, b, channel, lanes, step, steps);
        for (int64_t t = 0; t < steps; ++t) {
          V value = preactivation(w, bias, in.width, t), gate;
          sigmoids<1>(&value, &gate);
          const V d = w.dout[t] * gate * (value * (T(1) - gate) + T(1));
          w.out[t] = d;
          dbias += d;
          for (int64_t k = 0; k < in.width; ++k) w.dweight[k] += d * w.x[t + k];
        }
        for (int64_t t = 0; t < steps; ++t) {
          V dx{};
          for (int64_t k = 0; k < in.width; ++k) dx += w.weight[k] * w.out[t + in.width - 1 - k];
          w.dout[t] = dx;
        }
        Rows::unpack(w.dout, args.dx, b, channel, lanes, step, steps);
      }
      for (int c = 0; c < lanes; ++c) {
        const int64_t row = b * in.dim + channel + c;
        args.dbias[row] = dbias[c];
        for (int64_t k = 0; k < in.width; ++k) args.dweight[row * in.width + k] = w.dweight[k][c];
      }
    });
  }
};

}  // namespace
