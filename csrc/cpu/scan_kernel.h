// The selective scan on CPU, vectorized over channels; included once per instruction set.
//
// A work item is one batch index and one group of 64 channels. It processes the sequence in strips
// of 64 steps. In a strip it packs the vectors of W channels that share a cache line from the
// caller's layout into rows, so the inner loops have one layout, and channels beyond the last are
// zeros. Then it processes one vector and a few states at a time, which stay in registers over the
// strip's steps; backward recomputes the states for chunks of 32 steps and keeps their gradients in
// registers. See README.md for the arithmetic.
#pragma once

#include "rows.h"

namespace {

template <class T, int W, int N>
struct Scan {
  using V = Vec<T, W>;
  using Rows = ::Rows<T, W>;
  using Item = typename Rows::Item;
  using Strip = typename Rows::Strip;
  using Runs = typename Rows::Runs;
  static constexpr int kBlocks = kGroup / W, kVectors = Rows::kVectors, kStrip = Rows::kStrip;
  static constexpr int T_ = kChunk;
  // States whose decays are computed a step ahead: three registers for each.
  static constexpr int kAhead = W == 16 ? 4 : 2;
  // Gradients of B and C at one step of a tile: each vector holds, summed over lanes, those of
  // kHalf states' B and then of their C.
  static constexpr int kHalf = W / 2, kSums = N / kHalf;

  // States, padded to full tiles and vectors.
  static int64_t padded(int64_t state) {
    constexpr int kWhole = N > W ? N : W;
    return (state + kWhole - 1) / kWhole * kWhole;
  }

  // Scratch of one work item, carved out of one allocation; sizes in vectors of W or in scalars.
  struct Workspace {
    V *h, *A,
        *dA;  // (block, state): running state (backward: its gradient), A * log2(e), gradient of A
    V* largest_A;       // (block): largest |A * log2(e)|
    V *states, *decay;  // one tile of N states over a chunk: (step of the chunk + 1, N) and (step
                        // of the chunk, N)
    V* dBC;             // (step, state / kHalf): gradients of B and C, kHalf of each
    V *u, *dt, *z;      // (vector, step): as packed; in backward they become their gradients
    V* out;             // (vector, step): forward's result; in backward its gradient as packed
    V *dtu, *y, *dy, *sum_dtu, *sum_dt;  // (step), one after the other
    // From dtu to the others.
    static constexpr int kY = kStrip, kDy = 2 * kStrip, kSumDtu = 3 * kStrip, kSumDt = 4 * kStrip;
    V *slope, *gate;                     // (step): of softplus, and sigmoid(z)
    V *dD, *dbias;                       // (block)
    T *B, *C;                            // (step, state)

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
      states = take((T_ + 1) * N), decay = take(T_ * N);
      dBC = take(kStrip * (n / kHalf));
      for (V** rows : {&u, &dt, &z, &out}) *rows = take(kVectors * kStrip);
      for (V** row : {&dtu, &y, &dy, &sum_dtu, &sum_dt, &slope, &gate}) *row = take(kStrip);
      dD = take(kBlocks), dbias = take(kBlocks);
      B = reinterpret_cast<T*>(p);
      C = B + kStrip * n;
      end = reinterpret_cast<char*>(C + kStrip * n);
    }
    char* end;

    // The workspace of one of the vectors that are packed together.
    Workspace vector(int v) const {
      Workspace w = *this;
      for (V** rows : {&w.u, &w.dt, &w.z, &w.out}) *rows += v * kStrip;
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

  // dt = softplus(delta + bias), dt * u and sigmoid(z) of a strip; with Slope softplus's slope as
  // well. Returns whether all products of dt and A are in the range where powers need no bounds.
  template <bool Slope>
  static bool discretize(const Workspace& w, const ScanArgs<T>& in, int64_t block, int64_t channel,
                         int lanes, int64_t steps) {
    const V bias = Rows::pack_channels(in.delta_bias, channel, lanes);
    V largest{};
    for (int64_t t = 0; t < steps; ++t) w.dt[t] += bias;
    if (in.delta_softplus)
      Rows::by_fours(steps, [&](auto count, int64_t t) {
        softpluses<count>(w.dt + t, Slope ? w.slope + t : nullptr);
      });
    for (int64_t t = 0; t < steps; ++t) {
      w.dtu[t] = w.dt[t] * w.u[t];
      largest = larger(largest, w.dt[t]);
    }
    if (in.z)
      Rows::by_fours(steps, [&](auto count, int64_t t) { sigmoids<count>(w.z + t, w.gate + t); });
    largest *= w.largest_A[block];
    bool in_range = true;
    for (int c = 0; c < W; ++c) in_range = in_range && largest[c] < T(125);
    return in_range;
  }

  static T* checkpoint(T* checkpoints, const ScanSizes& size, const Item& item, int64_t chunk,
                       int64_t block) {
    const int64_t index =
        ((item.batch * size.groups() + item.group) * size.chunks() + chunk) * size.state * kGroup;
    return checkpoints + index + block * W * size.state;
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
      for (int64_t step = 0; step < size.length; step += kStrip) {
        const int64_t steps = size.length - step < kStrip ? size.length - step : kStrip;
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
    const int64_t tiles = strip.vectors() * ((in.size.state + kAhead - 1) / kAhead);
    const Runs ahead[] = {{in.u, in.size, next, tiles},
                          {in.delta, in.size, next, tiles},
                          {in.z, in.size, next, tiles},
                          {args.out, in.size, next, tiles}};
    int64_t tile = 0;
    pack_inputs(w, in, strip);
    for (int v = 0; v < strip.vectors(); ++v)
      forward_vector(args, w.vector(v), strip, v, [&] {
        for (const Runs& runs : ahead) runs.prefetch(tile);
        ++tile;
      });
    if (args.add) add_strip(w.out, w.u, args.out, in.size, strip);
    Rows::unpack_strip(w.out, args.out, in.size, strip);
  }

  // before_tile() is called before each tile of states.
  template <class F>
  static void forward_vector(const ScanForwardArgs<T>& args, const Workspace& w, const Strip& strip,
                             int v, const F& before_tile) {
    const ScanArgs<T>& in = args.in;
    const int64_t state = in.size.state, block = strip.block + v, steps = strip.steps;
    const int lanes = Rows::lanes_of(in.size, strip.channel(v));
    const bool in_range = discretize<false>(w, in, block, strip.channel(v), lanes, steps);
    const V D = Rows::pack_channels(in.D, strip.channel(v), lanes);
    for (int64_t t = 0; t < steps; ++t) w.out[t] = D * w.u[t];
    T* saved = args.checkpoints
                   ? checkpoint(args.checkpoints, in.size, strip.item, strip.step / T_, block)
                   : nullptr;
    const auto tile = in_range ? forward_tile<true> : forward_tile<false>;
    for (int64_t i = 0; i < state; i += kAhead) {
      before_tile();
      tile(w, block, i, state, saved, steps);
    }
    if (in.z)
      for (int64_t t = 0; t < steps; ++t) w.out[t] *= w.z[t] * w.gate[t];
    if (args.scale != T(1))
      for (int64_t t = 0; t < steps; ++t) w.out[t] *= args.scale;
  }

  // Adds what the strip of `view` holds to rows; `scratch` is as large as they are.
  static void add_strip(V* rows, V* scratch, const View<T>& view, const ScanSizes& size,
                        const Strip& strip) {
    if (!view) return;
    Rows::pack_strip(scratch, view.read(), size, strip);
    for (int v = 0; v < strip.vectors(); ++v)
      for (int64_t t = 0; t < strip.steps; ++t) rows[v * kStrip + t] += scratch[v * kStrip + t];
  }

  // kAhead states, from the i-th on, of W channels over one strip:
  // h = 2^(dt A) h + dt u B, y += C h. The states at the beginning of each chunk go to `saved`.
  template <bool InRange>
  static void forward_tile(const Workspace& w, int64_t block, int64_t i, int64_t state, T* saved,
                           int64_t steps) {
    const int64_t n = padded(state);
    const V *A = w.A + block * n + i, *dt = w.dt, *dtus = w.dtu;
    V h[kAhead], *carried = w.h + block * n + i, *out = w.out;
    const T *B = w.B + i, *C = w.C + i;
    Power<V> decay[kAhead];
    for (int j = 0; j < kAhead; ++j) h[j] = carried[j], decay[j] = split<W, InRange>(dt[0], A[j]);
    for (int64_t first = 0; first < steps; first += T_) {
      if (saved) {
        for (int j = 0; j < kAhead && i + j < state; ++j) store<V>(saved + (i + j) * W, h[j]);
        saved += state * kGroup;
      }
      const int64_t end = steps - first < T_ ? steps : first + T_;
      for (int64_t t = first; t < end; ++t, B += n, C += n) {
        const V dtu = dtus[t], next = dt[t + 1 < steps ? t + 1 : t];
        V y = out[t];
#pragma GCC unroll 8
        for (int j = 0; j < kAhead; ++j) {
          const V e = join<V>(decay[j]);
          decay[j] = split<W, InRange>(next, A[j]);
          h[j] = e * h[j] + dtu * B[j];
          y += h[j] * C[j];
        }
        out[t] = y;
      }
    }
    for (int j = 0; j < kAhead; ++j) carried[j] = h[j];
  }

  // Recomputes the states of a chunk, kAhead of a tile of N, and keeps them with their decays:
  // states[t] is the state before the chunk's step t.
  template <bool InRange>
  static void recompute_tile(const Workspace& w, int64_t block, int64_t first, int64_t i, int j,
                             int64_t n, int64_t steps) {
    const V *dt = w.dt + first, *dtu = w.dtu + first, *A = w.A + block * n + i + j;
    const T* B = w.B + first * n + i + j;
    V h[kAhead], *state = w.states + N + j, *decays = w.decay + j;
    Power<V> decay[kAhead];
    for (int k = 0; k < kAhead; ++k)
      h[k] = w.states[j + k], decay[k] = split<W, InRange>(dt[0], A[k]);
    for (int64_t t = 0; t < steps; ++t, B += n, decays += N, state += N) {
      const V next = dt[t + 1 < steps ? t + 1 : t];
#pragma GCC unroll 8
      for (int k = 0; k < kAhead; ++k) {
        const V e = join<V>(decay[k]);
        decay[k] = split<W, InRange>(next, A[k]);
        h[k] = e * h[k] + dtu[t] * B[k];
        decays[k] = e;
        state[k] = h[k];
      }
    }
  }

  // Processes the same steps backwards. dh is the gradient of the state, carried from later steps.
  static void backward_tile(const Workspace& w, int64_t block, int64_t first, int64_t state,
                            int64_t n, int64_t steps) {
    static_assert(N % kHalf == 0, "states fill vectors of sums");
    const V* A = w.A + block * n + state;
    V dh[N], dA[N];
    for (int i = 0; i < N; ++i)
      dh[i] = w.h[block * n + state + i], dA[i] = w.dA[block * n + state + i];
    // One pointer for each matrix, from the last step on: the compiler would take one for each
    // column, more than there are registers.
    const int64_t last = steps - 1;
    const V *states = w.states + last * N, *decay = w.decay + last * N, *dt = w.dt + first + last;
    const T *B = w.B + (first + last) * n + state, *C = w.C + (first + last) * n + state;
    V *row = w.dtu + first + last, *dBC = w.dBC + ((first + last) * n + state) / kHalf;
    for (int64_t t = last; t >= 0; --t) {
      const V dtu = row[0], dy = row[Workspace::kDy];
      V sums[N], y = row[Workspace::kY], sum_dtu = row[Workspace::kSumDtu],
                 sum_dt = row[Workspace::kSumDt];
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) {
        const V after = states[N + i], before = states[i];
        dh[i] += dy * C[i];
        y += after * C[i];
        sum_dtu += dh[i] * B[i];
        sums[i] = add_halves<kHalf>(dh[i] * dtu, dy * after);
        dh[i] *= decay[i];
        const V through = dh[i] * before;  // gradient of dt * A
        sum_dt += through * A[i];
        dA[i] += through * *dt;
      }
      row[Workspace::kY] = y, row[Workspace::kSumDtu] = sum_dtu, row[Workspace::kSumDt] = sum_dt;
      for (int k = 0; k < kSums; ++k) {
        add_rest<kHalf / 2>(sums + k * kHalf);
        dBC[k] += sums[k * kHalf];
      }
      states -= N, decay -= N, B -= n, C -= n, dBC -= n / kHalf, --row, --dt;
    }
    for (int i = 0; i < N; ++i)
      w.h[block * n + state + i] = dh[i], w.dA[block * n + state + i] = dA[i];
  }

  static void backward(const ScanBackwardArgs<T>& args, int64_t begin, int64_t end, void* memory) {
    const ScanArgs<T>& in = args.in;
    const ScanSizes& size = in.size;
    const int64_t n = padded(size.state), last_strip = (size.length - 1) / kStrip * kStrip;
    Workspace w(memory, size.state);
    for (int64_t index = begin; index < end; ++index) {
      const Item item(size, index);
      for (int64_t block = 0; block < item.blocks; ++block) {
        const int64_t channel = item.first_channel + block * W;
        pack_A(w, in, block, channel, Rows::lanes_of(size, channel));
        for (int64_t i = 0; i < n; ++i) w.h[block * n + i] = w.dA[block * n + i] = V{};
        w.dD[block] = w.dbias[block] = V{};
      }
      for (int64_t step = last_strip; step >= 0; step -= kStrip) {
        const int64_t steps = size.length - step < kStrip ? size.length - step : kStrip;
        pack_states(w.B, in.B, item.batch, size.state, step, steps);
        pack_states(w.C, in.C, item.batch, size.state, step, steps);
        for (int64_t i = 0; i < steps * (n / kHalf); ++i) w.dBC[i] = V{};
        for (int64_t block = 0; block < item.blocks; block += kVectors)
          backward_strip(args, w, Strip(size, item, block, step));
        for (int64_t t = 0; t < steps; ++t) {
          T *dB = args.dB.at(index, 0, step + t), *dC = args.dC.at(index, 0, step + t);
          const T* sums = reinterpret_cast<const T*>(w.dBC + t * (n / kHalf));
          for (int64_t i = 0; i < size.state; i += kHalf, sums += W) {
            const int64_t count = size.state - i < kHalf ? size.state - i : kHalf;
            for (int64_t j = 0; j < count; ++j) dB[i + j] = sums[j], dC[i + j] = sums[kHalf + j];
          }
        }
      }
      write_channel_sums(args, w, item);
    }
  }

  static void backward_strip(const ScanBackwardArgs<T>& args, const Workspace& w,
                             const Strip& strip) {
    const ScanArgs<T>& in = args.in;
    const Strip next = strip.next(in.size, -kStrip);
    const int64_t tiles =
        strip.vectors() * ((strip.steps + T_ - 1) / T_) * ((in.size.state + N - 1) / N);
    const Runs ahead[] = {{in.u, in.size, next, tiles},    {in.delta, in.size, next, tiles},
                          {in.z, in.size, next, tiles},    {args.dout, in.size, next, tiles},
                          {args.du, in.size, next, tiles}, {args.ddelta, in.size, next, tiles},
                          {args.dz, in.size, next, tiles}};
    int64_t tile = 0;
    pack_inputs(w, in, strip);
    Rows::pack_strip(w.out, args.dout, in.size, strip);
    for (int v = 0; v < strip.vectors(); ++v)
      backward_vector(args, w.vector(v), strip, v, [&] {
        for (const Runs& runs : ahead) runs.prefetch(tile);
        ++tile;
      });
    Rows::unpack_strip(w.u, args.du, in.size, strip);
    Rows::unpack_strip(w.dt, args.ddelta, in.size, strip);
    if (args.add_dz) add_strip(w.z, w.out, args.dz, in.size, strip);
    Rows::unpack_strip(w.z, args.dz, in.size, strip);
  }

  // before_tile() is called before each tile of a chunk's states.
  template <class F>
  static void backward_vector(const ScanBackwardArgs<T>& args, const Workspace& w,
                              const Strip& strip, int v, const F& before_tile) {
    const ScanArgs<T>& in = args.in;
    const int64_t state = in.size.state, n = padded(state), block = strip.block + v,
                  steps = strip.steps;
    const int lanes = Rows::lanes_of(in.size, strip.channel(v));
    const bool in_range = discretize<true>(w, in, block, strip.channel(v), lanes, steps);
    const V D = Rows::pack_channels(in.D, strip.channel(v), lanes);
    for (int64_t t = 0; t < steps; ++t) {
      w.out[t] *= args.scale;
      w.dy[t] = in.z ? w.out[t] * w.z[t] * w.gate[t] : w.out[t];
      w.y[t] = D * w.u[t];
      w.sum_dtu[t] = w.sum_dt[t] = V{};
    }
    const auto recompute = in_range ? recompute_tile<true> : recompute_tile<false>;
    for (int64_t first = (steps - 1) / T_ * T_; first >= 0; first -= T_) {
      const int64_t count = steps - first < T_ ? steps - first : T_;
      const T* saved = checkpoint(const_cast<T*>(args.checkpoints), in.size, strip.item,
                                  (strip.step + first) / T_, block);
      for (int64_t i = 0; i < state; i += N) {
        before_tile();
        for (int j = 0; j < N; ++j)
          w.states[j] = i + j < state ? load<V>(saved + (i + j) * W) : V{};
        for (int j = 0; j < N; j += kAhead) recompute(w, block, first, i, j, n, count);
        backward_tile(w, block, first, i, n, count);
      }
    }
    for (int64_t t = 0; t < steps; ++t) {
      // A was scaled by log2(e) for 2^x; its gradient is scaled back here.
      V ddelta = w.sum_dtu[t] * w.u[t] + w.sum_dt[t] * static_cast<T>(kLn2);
      if (in.delta_softplus) ddelta *= w.slope[t];
      w.dbias[block] += ddelta;
      w.dD[block] += w.dy[t] * w.u[t];
      if (in.z) {
        const V gate = w.gate[t];
        w.z[t] = w.out[t] * w.y[t] * gate * (w.z[t] * (T(1) - gate) + T(1));
      }
      w.u[t] = w.sum_dtu[t] * w.dt[t] + w.dy[t] * D;
      w.dt[t] = ddelta;
    }
  }

  static void write_channel_sums(const ScanBackwardArgs<T>& args, const Workspace& w,
                                 const Item& item) {
    const ScanSizes& size = args.in.size;
    const int64_t n = padded(size.state);
    const View<T> dA{args.dA, size.dim * size.state, size.state, 1};
    for (int64_t block = 0; block < item.blocks; ++block) {
      const int64_t channel = item.first_channel + block * W, row = item.batch * size.dim + channel;
      const int lanes = Rows::lanes_of(size, channel);
      Rows::unpack(w.dA + block * n, dA, item.batch, channel, lanes, 0, size.state);
      store_first<V>(args.dD + row, w.dD[block], lanes);
      store_first<V>(args.ddelta_bias + row, w.dbias[block], lanes);
    }
  }
};

}  // namespace
