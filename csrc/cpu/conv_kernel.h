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
  using RowsOf = typename Rows::template RowsOf<T>;
  using Inputs = typename Rows::template RowsOf<const T>;
  static constexpr int64_t kHalo = kMaxConvWidth - 1;

  struct Workspace {
    V x[kMaxStrip + kHalo];  // inputs of the strip, preceded by the width - 1 inputs before it
    V out[kMaxStrip];  // forward: outputs; backward: gradients of the outputs and of the inputs
    // Gradients before the activation, followed by the later strip's first.
    V dvalue[kMaxStrip + kHalo];
    V before[kMaxStrip];  // what the gradients of the inputs are added to
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
    Rows::pack(w.weight, in.weight, 0, channel, lanes, 0, in.width);
    for (int64_t k = 0; k < in.width; ++k) w.dweight[k] = w.dvalue[k] = V{};
    w.bias = Rows::pack_channels(in.bias, channel, lanes);
    w.dbias = V{};
  }

  // The rows of a strip, and the width - 1 before them: where they are, or packed.
  static Inputs inputs(Workspace& w, const ConvArgs<T>& in, const Strip& strip, int v) {
    const int64_t channel = strip.channel(v), back = in.width - 1,
                  missing = strip.step < back ? back - strip.step : 0;
    if (missing == 0 && Rows::in_place(in.x, sizes(in), strip))
      return {in.x.at(strip.item.batch, channel, strip.step - back), in.x.step};
    for (int64_t t = 0; t < missing; ++t) w.x[t] = V{};
    Rows::pack(w.x + missing, in.x, strip.item.batch, channel, Rows::lanes_of(sizes(in), channel),
               strip.step - back + missing, strip.steps + back - missing);
    return {reinterpret_cast<const T*>(w.x), W};
  }

  // Calls each(t, value, gate) for the steps of a strip: the convolution, and its sigmoid. Calls
  // ahead() at each step.
  template <class A, class F>
  static void activate(const Workspace& w, int64_t width_, const Inputs& x, int64_t steps,
                       const A& ahead, const F& each) {
    const V bias = w.bias;
    for_width(width_, [&](auto width) VMB_INLINE {
      const Taps taps(w.weight, width);
      Rows::template in_groups<4>(steps, [&](auto count, int64_t t) VMB_INLINE {
        V value[count], gate[count];
        for (int i = 0; i < count; ++i) {
          value[i] = bias;
          for (int64_t k = 0; k < width; ++k) value[i] += taps.of[k] * x[t + i + k];
          ahead();
        }
        sigmoids<count>(value, gate);
        for (int i = 0; i < count; ++i) each(t + i, value[i], gate[i]);
      });
    });
  }

  static void forward(const ConvForwardArgs<T>& args, int64_t begin, int64_t end, void* memory) {
    const ConvArgs<T>& in = args.in;
    Workspaces& w = *static_cast<Workspaces*>(memory);
    for_lines(
        in, begin, end, [&](const ScanSizes& size, const typename Rows::Item& item, int64_t block) {
          const Strip line(size, item, block, 0);
          for (int v = 0; v < line.vectors(); ++v) begin_vector(w.vector[v], in, line.channel(v));
          for (int64_t step = 0; step < size.strips() * kStrip; step += kStrip) {
            const Strip strip(size, item, block, step), next(size, item, block, step + kStrip);
            const T* const cached = reinterpret_cast<const T*>(w.vector);
            typename Rows::Ahead x(in.x, size, next, cached), out(args.out, size, next, cached);
            x.begin(strip.steps), out.begin(strip.steps);
            for (int v = 0; v < strip.vectors(); ++v)
              forward_strip(w.vector[v], args, strip, v, [&]() VMB_INLINE {
                if (v == 0) x.next(), out.next();
              });
          }
        });
  }

  template <class A>
  static void forward_strip(Workspace& w, const ConvForwardArgs<T>& args, const Strip& strip,
                            int v, const A& ahead) {
    const ScanSizes size = sizes(args.in);
    const RowsOf out = Rows::rows_of(args.out, size, strip, w.out);
    activate(w, args.in.width, inputs(w, args.in, strip, v), strip.steps, ahead,
             [&](int64_t t, V value, V gate) VMB_INLINE { out.put(t, value * gate); });
    Rows::unpack_vector(w.out, args.out, size, strip, v);
  }

  static void backward(const ConvBackwardArgs<T>& args, int64_t begin, int64_t end, void* memory) {
    const ConvArgs<T>& in = args.in;
    Workspaces& w = *static_cast<Workspaces*>(memory);
    for_lines(
        in, begin, end, [&](const ScanSizes& size, const typename Rows::Item& item, int64_t block) {
          const Strip line(size, item, block, 0);
          for (int v = 0; v < line.vectors(); ++v) begin_vector(w.vector[v], in, line.channel(v));
          for (int64_t step = (size.strips() - 1) * kStrip; step >= 0; step -= kStrip) {
            const Strip strip(size, item, block, step), next(size, item, block, step - kStrip);
            const T* const cached = reinterpret_cast<const T*>(w.vector);
            typename Rows::Ahead x(in.x, size, next, cached), dout(args.dout, size, next, cached),
                dx(args.dx, size, next, cached);
            x.begin(strip.steps), dout.begin(strip.steps), dx.begin(strip.steps);
            for (int v = 0; v < strip.vectors(); ++v)
              backward_strip(w.vector[v], args, strip, v, [&]() VMB_INLINE {
                if (v == 0) x.next(), dout.next(), dx.next();
              });
          }
          for (int v = 0; v < line.vectors(); ++v)
            write_channel_sums(w.vector[v], args, item.batch, line.channel(v));
        });
  }

  template <class A>
  static void backward_strip(Workspace& w, const ConvBackwardArgs<T>& args, const Strip& strip,
                             int v, const A& ahead) {
    const ConvArgs<T>& in = args.in;
    const ScanSizes size = sizes(in);
    const int64_t steps = strip.steps;
    // The later strip's first gradients move to the end of this strip's.
    for (int64_t k = in.width - 2; k >= 0; --k) w.dvalue[steps + k] = w.dvalue[k];
    const Inputs x = inputs(w, in, strip, v);
    Rows::pack_vector(w.out, args.dout, size, strip, v);
    const Inputs dout = Rows::rows_of(args.dout, size, strip, w.out);
    V dbias = w.dbias;
    activate(w, in.width, x, steps, ahead, [&](int64_t t, V value, V gate) VMB_INLINE {
      w.dvalue[t] = dout[t] * gate * (value * (T(1) - gate) + T(1));
      dbias += w.dvalue[t];
    });
    w.dbias = dbias;
    if (args.add_dx) Rows::pack_vector(w.before, args.dx.read(), size, strip, v);
    const RowsOf before = Rows::rows_of(args.dx, size, strip, w.before),
                 dx = Rows::rows_of(args.dx, size, strip, w.out);
    for_width(in.width, [&](auto width) {
      const Taps taps(w.weight, width);
      Taps sums(w.dweight, width);
      for (int64_t t = 0; t < steps; ++t) {
        V sum = args.add_dx ? before[t] : V{};
        for (int64_t k = 0; k < width; ++k) {
          sums.of[k] += w.dvalue[t] * x[t + k];
          sum += taps.of[k] * w.dvalue[t + width - 1 - k];
        }
        dx.put(t, sum);
      }
      for (int64_t k = 0; k < width; ++k) w.dweight[k] = sums.of[k];
    });
    Rows::unpack_vector(w.out, args.dx, size, strip, v);
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
