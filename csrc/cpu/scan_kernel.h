// The selective scan on CPU, vectorized over channels, and its forward pass; included once per
// instruction set.
//
// A work item is one batch index and one group of channels. It processes the sequence in strips
// of 32 steps, which with all that belongs to them stay in the first-level cache. In a strip it
// packs the vectors of W channels that share a cache line from the caller's layout into rows, so
// the inner loops have one layout, and channels beyond the last are zeros; a vector that is a cache
// line is used where it is. Then it processes one vector and a few states at a time, which stay in
// registers over the strip's steps. See README.md for the arithmetic.
#pragma once

#include "rows.h"

namespace {

template <class T, int W, int N>
struct Scan {
  using V = Vec<T, W>;
  using Rows = ::Rows<T, W>;
  using Item = typename Rows::Item;
  using Strip = typename Rows::Strip;
  using Ahead = typename Rows::Ahead;
  static constexpr int kBlocks = kGroup / W, kVectors = Rows::kVectors;
  // States whose decays are computed a step ahead: three registers for each.
  static constexpr int kAhead = W == 16 ? 4 : 2;
  // The rows of a step in backward: adjacent, so that they spread over all sets of the cache.
  enum Row { kDt, kDtu, kDy, kY, kSumDtu, kSumDt, kRows };
  // Gradients of B and C at one step, summed over lanes: a vector has those of kHalf states' B, and
  // then of their C. If a tile has fewer states, its vector has kParts sums, over a part of the
  // lanes, for each.
  static constexpr int kHalf = W / 2, kSums = N > kHalf ? N / kHalf : 1,
                       kParts = N < kHalf ? kHalf / N : 1;

  // States, padded to full tiles and vectors.
  static int64_t padded(int64_t state) {
    constexpr int kWhole = N > W ? N : W;
    return (state + kWhole - 1) / kWhole * kWhole;
  }

  // Vectors of the gradients of B and C at one step, for a padded number of states.
  static int64_t sums(int64_t padded_state) { return padded_state / N * kSums; }

  // Scratch of one work item, carved out of one allocation; sizes in vectors of W or in scalars.
  struct Workspace {
    V *h, *A,
        *dA;  // (block, state): running state (backward: its gradient), A * log2(e), gradient of A
    V* largest_A;       // (block): largest |A * log2(e)|
    V *states, *decay;  // one tile of N states: (step + 1, N) and (step, N)
    V* dBC;             // (step, tile, kSums): gradients of B and C
    V *u, *dt, *z;      // (vector, step): as packed; in backward they become their gradients
    V* out;             // (vector, step): forward's result; in backward its gradient as packed
    V *dtu, *rows;      // forward: (step); backward: (step, Row)
    V *dD, *dbias;      // (block)
    T *B, *C;           // (step, state)

    Workspace(void* memory, int64_t state) {
      const int64_t n = padded(state);
      V* p = static_cast<V*>(memory);
      auto take = [&p](int64_t count) {
        V* q = p;
        p += count;
        return q;
      };
      h = take(kBlocks * n), A = take(kBlocks * n), dA = take(kBlocks * n),
      largest_A = take(kBlocks);
      states = take((kMaxStrip + 1) * N), decay = take(kMaxStrip * N);
      dBC = take(kMaxStrip * sums(n));
      for (V** each : {&u, &dt, &z, &out}) *each = take(kVectors * kMaxStrip);
      dtu = take(kMaxStrip), rows = take(kMaxStrip * kRows);
      dD = take(kBlocks), dbias = take(kBlocks);
      B = reinterpret_cast<T*>(p);
      C = B + kMaxStrip * n;
      end = reinterpret_cast<char*>(C + kMaxStrip * n);
    }
    char* end;

    // The workspace of one of the vectors that are packed together.
    Workspace vector(int v) const {
      Workspace w = *this;
      for (V** each : {&w.u, &w.dt, &w.z, &w.out}) *each += v * kMaxStrip;
      return w;
    }
  };

  static int64_t workspace(const ScanSizes& size) {
    return Workspace(nullptr, size.state).end - static_cast<char*>(nullptr);
  }

  // (step, state) from B or C; states beyond the last are zeros.
  static void pack_states(T* rows, const View<const T>& view, int64_t b, int64_t state,
                          int64_t step, int64_t steps) {
    const int64_t apart = padded(state) / W;
    for (int64_t i = 0; i < apart; ++i) {
      const int64_t left = state - i * W;
      Rows::pack(reinterpret_cast<V*>(rows) + i, view, b, i * W,
                 static_cast<int>(left < 0   ? 0
                                  : left < W ? left
                                             : W),
                 step, steps, apart);
    }
  }

  static void pack_A(const Workspace& w, const ScanArgs<T>& in, int64_t block, int64_t channel,
                     int lanes) {
    const int64_t n = padded(in.size.state);
    V *rows = w.A + block * n, largest{};
    Rows::pack(rows, in.A, 0, channel, lanes, 0, in.size.state);
    for (int64_t i = 0; i < in.size.state; ++i) {
      rows[i] *= static_cast<T>(kLog2e);
      largest = larger(largest, rows[i]);
    }
    for (int64_t i = in.size.state; i < n; ++i) rows[i] = V{};
    w.largest_A[block] = largest;
  }

  // The larger of a bound and the magnitude of a value, by lane; NaN is ignored.
  static V larger(V bound, V value) {
    const V magnitude = -negative<V>(value);
    return magnitude > bound ? magnitude : bound;
  }

  static void pack_inputs(const Workspace& w, const ScanArgs<T>& in, const Strip& strip) {
    Rows::pack_strip(w.u, in.u, in.size, strip);
    Rows::pack_strip(w.dt, in.delta, in.size, strip);
    Rows::pack_strip(w.z, in.z, in.size, strip);
  }

  // Calls each(t, dt, slope, z, gate) for the steps of a strip: dt = softplus(delta + bias), the
  // slope of softplus if Slope, and z and sigmoid(z) if there is a z. Returns whether all products
  // of dt and A are in the range where powers need no bounds. Not inlined, like the tiles of
  // backward: the compiler allocates registers better in small functions.
  template <bool Slope, class F>
  [[gnu::noinline]] static bool discretize(const Workspace& w, const ScanArgs<T>& in,
                                           const Strip& strip, int v, const F& each) {
    const int64_t channel = strip.channel(v);
    const V bias = Rows::pack_channels(in.delta_bias, channel, Rows::lanes_of(in.size, channel));
    const auto deltas = Rows::rows_of(in.delta, in.size, strip, w.dt),
               zs = Rows::rows_of(in.z, in.size, strip, w.z);
    const bool softplus = in.delta_softplus, gated{in.z};
    V largest{};
    // With AVX-512, four steps and their slopes take more time than two: measured.
    Rows::template in_groups<Slope && W == 16 ? 2 : 4>(strip.steps, [&](auto count, int64_t t) {
      V dt[count], slope[count], z[count]{}, gate[count]{};
      for (int i = 0; i < count; ++i) dt[i] = deltas[t + i] + bias, slope[i] = splat<V>(1);
      if (softplus) softpluses<count>(dt, Slope ? slope : nullptr);
      if (gated) {
        for (int i = 0; i < count; ++i) z[i] = zs[t + i];
        sigmoids<count>(z, gate);
      }
      for (int i = 0; i < count; ++i) {
        largest = larger(largest, dt[i]);
        each(t + i, dt[i], slope[i], z[i], gate[i]);
      }
    });
    largest *= w.largest_A[strip.block + v];
    bool in_range = true;
    for (int c = 0; c < W; ++c) in_range = in_range && largest[c] < T(125);
    return in_range;
  }

  // The states of a block before a strip.
  static T* checkpoint(T* checkpoints, const ScanSizes& size, const Strip& strip, int64_t block) {
    const Item& item = strip.item;
    return checkpoints + (item.batch * size.strips() + strip.step / kStrip) * size.states() +
           (item.first_channel + block * W) * size.state;
  }

  static void forward(const ScanForwardArgs<T>& args, int64_t begin, int64_t end, void* memory) {
    const ScanArgs<T>& in = args.in;
    const ScanSizes& size = in.size;
    const int64_t n = padded(size.state);
    Workspace w(memory, size.state);
    for (int64_t index = begin; index < end; ++index) {
      const Item item(size, index);
      for (int64_t block = 0; block < item.blocks; ++block) {
        const int64_t channel = item.first_channel + block * W;
        pack_A(w, in, block, channel, Rows::lanes_of(size, channel));
        for (int64_t i = 0; i < n; ++i) w.h[block * n + i] = V{};
      }
      for (int64_t step = 0; step < size.strips() * kStrip; step += kStrip) {
        const int64_t steps = size.steps(step);
        pack_states(w.B, in.B, item.batch, size.state, step, steps);
        pack_states(w.C, in.C, item.batch, size.state, step, steps);
        for (int64_t block = 0; block < item.blocks; block += kVectors)
          forward_strip(args, w, Strip(size, item, block, step));
      }
    }
  }

  static void forward_strip(const ScanForwardArgs<T>& args, const Workspace& w,
                            const Strip& strip) {
    const ScanArgs<T>& in = args.in;
    const Strip next = strip.next(in.size, kStrip);
    const T* const cached = in_cache(w);
    Ahead ahead[] = {{in.u, in.size, next, cached},
                     {in.delta, in.size, next, cached},
                     {in.z, in.size, next, cached},
                     {args.out, in.size, next, cached}};
    Prefetches prefetches(ahead, strip, tiles(in.size.state, kAhead));
    pack_inputs(w, in, strip);
    for (int v = 0; v < strip.vectors(); ++v)
      forward_vector(args, w.vector(v), strip, v, prefetches);
    if (args.add) add_strip(w.out, w.u, args.out, in.size, strip);
    Rows::unpack_strip(w.out, args.out, in.size, strip);
  }

  static int64_t tiles(int64_t state, int64_t states) { return (state + states - 1) / states; }

  static const T* in_cache(const Workspace& w) { return w.B; }

  // Deals out the tensors of the next strip to the passes over this one.
  struct Prefetches {
    Ahead *next, *end;
    Ahead none;
    int64_t passes, steps;

    template <size_t Count>
    Prefetches(Ahead (&ahead)[Count], const Strip& strip, int64_t passes)
        : next(ahead),
          end(ahead + Count),
          none(ahead[0].cached),
          passes(passes * strip.vectors()),
          steps(strip.steps) {}

    // That of the next pass. The last pass begins with all lines that are left.
    [[gnu::always_inline]] Ahead take() {
      if (next == end) return none;
      if (--passes == 0)
        for (; next + 1 < end; ++next) next->begin(0);
      next->begin(steps);
      return *next++;
    }
  };

  static void forward_vector(const ScanForwardArgs<T>& args, const Workspace& w, const Strip& strip,
                             int v, Prefetches& prefetches) {
    const ScanArgs<T>& in = args.in;
    const int64_t state = in.size.state, block = strip.block + v, steps = strip.steps;
    const V D = Rows::pack_channels(in.D, strip.channel(v),
                                    Rows::lanes_of(in.size, strip.channel(v)));
    const auto us = Rows::rows_of(in.u, in.size, strip, w.u);
    const bool in_range =
        discretize<false>(w, in, strip, v, [&](int64_t t, V dt, V, V z, V gate) VMB_INLINE {
          const V u = us[t];
          w.dt[t] = dt, w.dtu[t] = dt * u, w.out[t] = D * u, w.z[t] = z * gate;
        });
    T* saved = args.checkpoints ? checkpoint(args.checkpoints, in.size, strip, block) : nullptr;
    const auto tile = in_range ? forward_tile<true> : forward_tile<false>;
    for (int64_t i = 0; i < state; i += kAhead)
      tile(w, block, i, state, saved, steps, prefetches.take());
    const auto out = Rows::rows_of(args.out, in.size, strip, w.out);
    const bool gated{in.z}, add = args.add && Rows::in_place(args.out, in.size, strip);
    const T scale = args.scale;
    for (int64_t t = 0; t < steps; ++t) {
      V y = w.out[t] * scale;
      if (gated) y *= w.z[t];
      if (add) y += out[t];
      out.put(t, y);
    }
  }

  // Adds what the strip of `view` holds to packed rows; `scratch` is as large as they are.
  static void add_strip(V* rows, V* scratch, const View<T>& view, const ScanSizes& size,
                        const Strip& strip) {
    if (!view || Rows::in_place(view, size, strip)) return;
    Rows::pack_strip(scratch, view.read(), size, strip);
    for (int v = 0; v < strip.vectors(); ++v)
      for (int64_t t = v * kMaxStrip; t < v * kMaxStrip + strip.steps; ++t) rows[t] += scratch[t];
  }

  // kAhead states, from the i-th on, of W channels over one strip:
  // h = 2^(dt A) h + dt u B, y += C h. The states at the beginning of the strip go to `saved`.
  template <bool InRange>
  static void forward_tile(const Workspace& w, int64_t block, int64_t i, int64_t state, T* saved,
                           int64_t steps, Ahead ahead) {
    const int64_t n = padded(state);
    const V *A = w.A + block * n + i, *dt = w.dt, *dtus = w.dtu;
    V h[kAhead], *carried = w.h + block * n + i, *out = w.out;
    const T *B = w.B + i, *C = w.C + i;
    Power<V> decay[kAhead];
    for (int j = 0; j < kAhead; ++j) h[j] = carried[j], decay[j] = split<W, InRange>(dt[0], A[j]);
    if (saved)
      for (int j = 0; j < kAhead && i + j < state; ++j) store<V>(saved + (i + j) * W, h[j]);
    for (int64_t t = 0; t < steps; ++t, B += n, C += n) {
      const V dtu = dtus[t], next = dt[t + 1 < steps ? t + 1 : t];
      V y = out[t];
      ahead.next();
#pragma GCC unroll 8
      for (int j = 0; j < kAhead; ++j) {
        const V e = join<V, InRange>(decay[j]);
        decay[j] = split<W, InRange>(next, A[j]);
        h[j] = e * h[j] + dtu * B[j];
        y += h[j] * C[j];
      }
      out[t] = y;
    }
    for (int j = 0; j < kAhead; ++j) carried[j] = h[j];
  }
};

}  // namespace
