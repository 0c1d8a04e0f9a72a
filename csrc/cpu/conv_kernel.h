// silu(causal depthwise convolution) on CPU, vectorized over channels; included once per
// instruction set.
#pragma once

#include "rows.h"

namespace {

template <class T, int W>
struct CausalConv {
  using V = Vec<T, W>;
  using Rows = ::Rows<T, W>;
  using Strip = typename Rows::Strip;
  static constexpr int64_t kHalo = kMaxConvWidth - 1, kSteps = Rows::kStrip;

  struct Workspace {
    V x[kSteps + kHalo];  // inputs of the strip, preceded by the width - 1 inputs before it
    // Forward: outputs; backward: gradients before the activation, followed by the later strip's
    // first.
    V out[kSteps + kHalo];
    V dout[kSteps];
    V value[kSteps], gate[kSteps];  // before the activation, and sigmoid of that
    V weight[kMaxConvWidth], dweight[kMaxConvWidth], bias, dbias;
  };
  // One for each vector of channels in a cache line, which are processed strip by strip.
  struct Workspaces {
    Workspace vector[Rows::kVectors];
  };

  template <class F>
  static void for_lines(const ConvArgs<T>& in, int64_t begin, int64_t end, F&& each) {
    const ScanSizes size = sizes(in);
    for (int64_t index = begin; index < end; ++index) {
      const typename Rows::Item item(size, index);
      for (int64_t block = 0; block < item.blocks; block += Rows::kVectors) each(size, item, block);
    }
  }

  // Calls f(width), a compile-time constant where it is Mamba's 4: then every tap stays in a
  // register.
  template <class F>
  static void for_width(int64_t width, const F& f) {
    if (width == 4)
      f(std::integral_constant<int64_t, 4>());
    else
      f(width);
  }

  struct Taps {
    V of[kMaxConvWidth];
    Taps(const V* values, int64_t width) {
      for (int64_t k = 0; k < width; ++k) of[k] = values[k];
    }
  };

  static ScanSizes sizes(const ConvArgs<T>& in) { return {in.batch, in.dim, in.length, 0}; }

  // Loads the weights and clears the sums over the steps; after the last step gradients are zero.
  static void begin_vector(Workspace& w, const ConvArgs<T>& in, int64_t channel) {
    const int lanes = Rows::lanes_of(sizes(in), channel);
    for (int64_t k = 0; k < in.width; ++k) {
      w.weight[k] = w.dweight[k] = w.out[k] = V{};
      for (int c = 0; c < lanes; ++c) w.weight[k][c] = *in.weight.at(0, channel + c, k);
    }
    w.bias = Rows::pack_channels(in.bias, channel, lanes);
    w.dbias = V{};
  }

  // Loads the strip's inputs and those before them that its first outputs need, and computes the
  // convolution's values and their sigmoids.
  static void activate(Workspace& w, const ConvArgs<T>& in, const Strip& strip, int v) {
    const int64_t channel = strip.channel(v), back = in.width - 1,
                  missing = strip.step < back ? back - strip.step : 0;
    for (int64_t t = 0; t < missing; ++t) w.x[t] = V{};
    Rows::pack(w.x + missing, in.x, strip.item.batch, channel, Rows::lanes_of(sizes(in), channel),
               strip.step - back + missing, strip.steps + back - missing);
    for_width(in.width, [&](auto width) {
      const Taps taps(w.weight, width);
      for (int64_t t = 0; t < strip.steps; ++t) {
        V value = w.bias;
        for (int64_t k = 0; k < width; ++k) value += taps.of[k] * w.x[t + k];
        w.value[t] = value;
      }
    });
    Rows::by_fours(strip.steps,
                   [&](auto count, int64_t t) { sigmoids<count>(w.value + t, w.gate + t); });
  }

  static void forward(const ConvForwardArgs<T>& args, int64_t begin, int64_t end, void* memory) {
    const ConvArgs<T>& in = args.in;
    Workspaces& w = *static_cast<Workspaces*>(memory);
    for_lines(
        in, begin, end, [&](const ScanSizes& size, const typename Rows::Item& item, int64_t block) {
          const Strip line(size, item, block, 0);
          for (int v = 0; v < line.vectors(); ++v) begin_vector(w.vector[v], in, line.channel(v));
          for (int64_t step = 0; step < in.length; step += kSteps) {
            const Strip strip(size, item, block, step), next(size, item, block, step + kSteps);
            const typename Rows::Runs ahead[] = {{in.x, size, next, strip.vectors()},
                                                 {args.out, size, next, strip.vectors()}};
            for (int v = 0; v < strip.vectors(); ++v) {
              Workspace& a = w.vector[v];
              for (const auto& runs : ahead) runs.prefetch(v);
              activate(a, in, strip, v);
              for (int64_t t = 0; t < strip.steps; ++t) a.out[t] = a.value[t] * a.gate[t];
              Rows::unpack(a.out, args.out, item.batch, strip.channel(v),
                           Rows::lanes_of(size, strip.channel(v)), step, strip.steps);
            }
          }
        });
  }

  static void backward(const ConvBackwardArgs<T>& args, int64_t begin, int64_t end, void* memory) {
    const ConvArgs<T>& in = args.in;
    Workspaces& w = *static_cast<Workspaces*>(memory);
    for_lines(
        in, begin, end, [&](const ScanSizes& size, const typename Rows::Item& item, int64_t block) {
          const Strip line(size, item, block, 0);
          for (int v = 0; v < line.vectors(); ++v) begin_vector(w.vector[v], in, line.channel(v));
          for (int64_t step = (in.length - 1) / kSteps * kSteps; step >= 0; step -= kSteps) {
            const Strip strip(size, item, block, step), next(size, item, block, step - kSteps);
            const typename Rows::Runs ahead[] = {{in.x, size, next, strip.vectors()},
                                                 {args.dout, size, next, strip.vectors()},
                                                 {args.dx, size, next, strip.vectors()}};
            for (int v = 0; v < strip.vectors(); ++v) {
              for (const auto& runs : ahead) runs.prefetch(v);
              backward_strip(w.vector[v], args, strip, v);
            }
          }
          for (int v = 0; v < line.vectors(); ++v)
            write_channel_sums(w.vector[v], args, item.batch, line.channel(v));
        });
  }

  static void backward_strip(Workspace& w, const ConvBackwardArgs<T>& args, const Strip& strip,
                             int v) {
    const ConvArgs<T>& in = args.in;
    const int64_t channel = strip.channel(v), steps = strip.steps;
    const int lanes = Rows::lanes_of(sizes(in), channel);
    // The later strip's first gradients move to the end of this strip's.
    for (int64_t k = in.width - 2; k >= 0; --k) w.out[steps + k] = w.out[k];
    activate(w, in, strip, v);
    Rows::pack(w.dout, args.dout, strip.item.batch, channel, lanes, strip.step, steps);
    for (int64_t t = 0; t < steps; ++t) {
      const V gate = w.gate[t];
      w.out[t] = w.dout[t] * gate * (w.value[t] * (T(1) - gate) + T(1));
      w.dbias += w.out[t];
    }
    for_width(in.width, [&](auto width) {
      const Taps taps(w.weight, width);
      Taps sums(w.dweight, width);
      for (int64_t t = 0; t < steps; ++t) {
        V dx{};
        for (int64_t k = 0; k < width; ++k) {
          sums.of[k] += w.out[t] * w.x[t + k];
          dx += taps.of[k] * w.out[t + width - 1 - k];
        }
        w.dout[t] = dx;
      }
      for (int64_t k = 0; k < width; ++k) w.dweight[k] = sums.of[k];
    });
    if (args.add_dx) {
      Rows::pack(w.value, args.dx.read(), strip.item.batch, channel, lanes, strip.step, steps);
      for (int64_t t = 0; t < steps; ++t) w.dout[t] += w.value[t];
    }
    Rows::unpack(w.dout, args.dx, strip.item.batch, channel, lanes, strip.step, steps);
  }

  static void write_channel_sums(const Workspace& w, const ConvBackwardArgs<T>& args, int64_t batch,
                                 int64_t channel) {
    const ConvArgs<T>& in = args.in;
    for (int c = 0; c < Rows::lanes_of(sizes(in), channel); ++c) {
      const int64_t row = batch * in.dim + channel + c;
      args.dbias[row] = w.dbias[c];
      for (int64_t k = 0; k < in.width; ++k) args.dweight[row * in.width + k] = w.dweight[k][c];
    }
  }
};

}  // namespace
