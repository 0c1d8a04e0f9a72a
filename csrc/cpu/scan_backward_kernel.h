// The backward pass of the selective scan on CPU: it takes the strips from the last to the first,
// and in each it computes the states of a tile again before it processes them backwards. See
// scan_kernel.h and README.md.
#pragma once

#include "scan_kernel.h"

namespace {

template <class T, int W, int N>
struct ScanBackward {
  using S = Scan<T, W, N>;
  using V = Vec<T, W>;
  using Rows = ::Rows<T, W>;
  using Item = typename Rows::Item;
  using Strip = typename Rows::Strip;
  using Ahead = typename Rows::Ahead;
  using Prefetches = typename S::Prefetches;
  using Workspace = typename S::Workspace;
  static constexpr int kVectors = Rows::kVectors, kAhead = S::kAhead, kHalf = S::kHalf,
                       kRows = S::kRows;
  static_assert(N % kAhead == 0 && S::kParts <= 2, "tiles fill vectors of powers and of sums");

  static void backward(const ScanBackwardArgs<T>& args, int64_t begin, int64_t end, void* memory) {
    const ScanArgs<T>& in = args.in;
    const ScanSizes& size = in.size;
    const int64_t n = S::padded(size.state), last_strip = (size.strips() - 1) * kStrip;
    Workspace w(memory, size.state);
    for (int64_t index = begin; index < end; ++index) {
      const Item item(size, index);
      for (int64_t block = 0; block < item.blocks; ++block) {
        const int64_t channel = item.first_channel + block * W;
        S::pack_A(w, in, block, channel, Rows::lanes_of(size, channel));
        for (int64_t i = 0; i < n; ++i) w.h[block * n + i] = w.dA[block * n + i] = V{};
        w.dD[block] = w.dbias[block] = V{};
      }
      for (int64_t step = last_strip; step >= 0; step -= kStrip) {
        const int64_t steps = size.steps(step);
        S::pack_states(w.B, in.B, item.batch, size.state, step, steps);
        S::pack_states(w.C, in.C, item.batch, size.state, step, steps);
        for (int64_t i = 0; i < steps * S::sums(n); ++i) w.dBC[i] = V{};
        for (int64_t block = 0; block < item.blocks; block += kVectors)
          backward_strip(args, w, Strip(size, item, block, step));
        write_step_sums(args, w, index, step, steps);
      }
      write_channel_sums(args, w, item);
    }
  }

  static void backward_strip(const ScanBackwardArgs<T>& args, const Workspace& w,
                             const Strip& strip) {
    const ScanArgs<T>& in = args.in;
    const Strip next = strip.next(in.size, -kStrip);
    const T* const cached = S::in_cache(w);
    Ahead ahead[] = {{in.u, in.size, next, cached},      {in.delta, in.size, next, cached},
                     {in.z, in.size, next, cached},      {args.dout, in.size, next, cached},
                     {args.du, in.size, next, cached},   {args.ddelta, in.size, next, cached},
                     {args.dz, in.size, next, cached},   saved_ahead(args, next, cached)};
    Prefetches prefetches(ahead, strip, S::tiles(in.size.state, N) * (N / kAhead + 1));
    S::pack_inputs(w, in, strip);
    Rows::pack_strip(w.out, args.dout, in.size, strip);
    for (int v = 0; v < strip.vectors(); ++v)
      backward_vector(args, w.vector(v), strip, v, prefetches);
    Rows::unpack_strip(w.u, args.du, in.size, strip);
    Rows::unpack_strip(w.dt, args.ddelta, in.size, strip);
    if (args.add_dz) S::add_strip(w.z, w.out, args.dz, in.size, strip);
    Rows::unpack_strip(w.z, args.dz, in.size, strip);
  }

  // The states before a strip.
  static Ahead saved_ahead(const ScanBackwardArgs<T>& args, const Strip& strip, const T* cached) {
    Ahead ahead(cached);
    if (strip.step < 0) return ahead;
    ahead.line = saved_states(args, strip, strip.block);
    // Each line twice: Vim's 16 states are then a line at each step.
    ahead.to_next = W * kVectors;
    ahead.lines = 2 * strip.vectors() * args.in.size.state / kVectors;
    return ahead;
  }

  static const T* saved_states(const ScanBackwardArgs<T>& args, const Strip& strip,
                               int64_t block) {
    return S::checkpoint(const_cast<T*>(args.checkpoints), args.in.size, strip, block);
  }

  static void backward_vector(const ScanBackwardArgs<T>& args, const Workspace& w,
                              const Strip& strip, int v, Prefetches& prefetches) {
    const ScanArgs<T>& in = args.in;
    const int64_t state = in.size.state, n = S::padded(state), block = strip.block + v,
                  steps = strip.steps;
    const int lanes = Rows::lanes_of(in.size, strip.channel(v));
    const V D = Rows::pack_channels(in.D, strip.channel(v), lanes);
    const auto us = Rows::rows_of(in.u, in.size, strip, w.u);
    const auto douts = Rows::rows_of(args.dout, in.size, strip, w.out);
    // Rows of packed inputs are used for what the end of the strip needs: delta's for the slope,
    // z's for the gradient of z without the factor y.
    const bool in_range = S::template discretize<true>(
        w, in, strip, v, [&](int64_t t, V dt, V slope, V z, V gate) VMB_INLINE {
          V* const row = w.rows + t * kRows;
          const V u = us[t], dout = douts[t] * args.scale;
          row[S::kDt] = dt, row[S::kDtu] = dt * u, row[S::kDy] = dout, row[S::kY] = D * u;
          w.dt[t] = slope;
          if (in.z) {
            const V gated = dout * gate;
            row[S::kDy] = gated * z, w.z[t] = gated * (z * (T(1) - gate) + T(1));
          }
        });
    const auto recompute_states = in_range ? recompute<true> : recompute<false>;
    const T* saved = saved_states(args, strip, block);
    for (int64_t i = 0; i < state; i += N) {
      for (int j = 0; j < N; ++j) w.states[j] = i + j < state ? load<V>(saved + (i + j) * W) : V{};
      for (int j = 0; j < N; j += kAhead)
        recompute_states(w, block, i, j, n, steps, prefetches.take());
      backward_tile(w, block, i, n, steps, prefetches.take());
    }
    end_strip(args, w, strip, block, D);
  }

  // The gradients of a strip's u, delta and z, and what it adds to those of D and the bias.
  static void end_strip(const ScanBackwardArgs<T>& args, const Workspace& w, const Strip& strip,
                        int64_t block, V D) {
    const ScanSizes& size = args.in.size;
    const auto us = Rows::rows_of(args.in.u, size, strip, w.u);
    const auto du = Rows::rows_of(args.du, size, strip, w.u),
               ddelta = Rows::rows_of(args.ddelta, size, strip, w.dt),
               dz = Rows::rows_of(args.dz, size, strip, w.z);
    const bool gated{args.in.z}, add_dz = args.add_dz && Rows::in_place(args.dz, size, strip);
    V dD = w.dD[block], dbias = w.dbias[block];
    const V* row = w.rows;
    for (int64_t t = 0; t < strip.steps; ++t, row += kRows) {
      // A was scaled by log2(e) for 2^x; its gradient is scaled back here.
      const V u = us[t], dy = row[S::kDy], sum_dtu = row[S::kSumDtu],
              gradient = (sum_dtu * u + row[S::kSumDt] * static_cast<T>(kLn2)) * w.dt[t];
      dbias += gradient, dD += dy * u;
      du.put(t, sum_dtu * row[S::kDt] + dy * D), ddelta.put(t, gradient);
      if (gated) dz.put(t, add_dz ? w.z[t] * row[S::kY] + dz[t] : w.z[t] * row[S::kY]);
    }
    w.dD[block] = dD, w.dbias[block] = dbias;
  }

  // Computes the states of a strip again, kAhead of a tile of N, and keeps them with their decays:
  // states[t] is the state before step t.
  template <bool InRange>
  static void recompute(const Workspace& w, int64_t block, int64_t i, int j, int64_t n,
                        int64_t steps, Ahead ahead) {
    const V *row = w.rows, *A = w.A + block * n + i + j;
    const T* B = w.B + i + j;
    V h[kAhead], *state = w.states + j, *decays = w.decay + j;
    Power<V> decay[kAhead];
    for (int k = 0; k < kAhead; ++k)
      h[k] = state[k], decay[k] = split<W, InRange>(row[S::kDt], A[k]);
    for (int64_t t = 0; t < steps; ++t, B += n, decays += N) {
      const V dtu = row[S::kDtu];
      row += t + 1 < steps ? kRows : 0;
      const V next = row[S::kDt];
      state += N;
      ahead.next();
#pragma GCC unroll 8
      for (int k = 0; k < kAhead; ++k) {
        const V e = join<V, InRange>(decay[k]);
        decay[k] = split<W, InRange>(next, A[k]);
        h[k] = e * h[k] + dtu * B[k];
        decays[k] = e, state[k] = h[k];
      }
    }
  }

  // Processes the same steps backwards. dh is the gradient of the state, carried from later steps.
  [[gnu::noinline]] static void backward_tile(const Workspace& w, int64_t block, int64_t state,
                                              int64_t n, int64_t steps, Ahead ahead) {
    // In registers: the compiler would load A again after each store, and states twice.
    V A[N], after[N], dh[N], dA[N];
    V *carried = w.h + block * n + state, *dA_before = w.dA + block * n + state;
    for (int i = 0; i < N; ++i) {
      A[i] = w.A[block * n + state + i], after[i] = w.states[steps * N + i];
      dh[i] = carried[i], dA[i] = dA_before[i];
    }
    // One pointer for each matrix, from the last step on: the compiler would take one for each
    // column, more than there are registers.
    const int64_t last = steps - 1, sums_apart = S::sums(n);
    const V *states = w.states + last * N, *decay = w.decay + last * N;
    const T *B = w.B + last * n + state, *C = w.C + last * n + state;
    V *row = w.rows + last * kRows, *dBC = w.dBC + last * sums_apart + state / N * S::kSums;
    for (int64_t t = last; t >= 0; --t) {
      const V dt = row[S::kDt], dtu = row[S::kDtu], dy = row[S::kDy];
      V sums[N], y = row[S::kY], sum_dtu{}, sum_dt{};
      if (state > 0) sum_dtu = row[S::kSumDtu], sum_dt = row[S::kSumDt];
      ahead.next();
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) {
        const V before = states[i];
        dh[i] += dy * C[i];
        y += after[i] * C[i];
        sum_dtu += dh[i] * B[i];
        sums[i] = add_halves<kHalf>(dh[i] * dtu, dy * after[i]);
        dh[i] *= decay[i];
        const V through = dh[i] * before;  // gradient of dt * A
        sum_dt += through * A[i];
        dA[i] += through * dt;
        after[i] = before;
      }
      row[S::kY] = y, row[S::kSumDtu] = sum_dtu, row[S::kSumDt] = sum_dt;
      for (int k = 0; k < S::kSums; ++k) {
        add_rest<N / S::kSums / 2>(sums + k * kHalf);
        dBC[k] += sums[k * kHalf];
      }
      states -= N, decay -= N, B -= n, C -= n, dBC -= sums_apart, row -= kRows;
    }
    for (int i = 0; i < N; ++i) carried[i] = dh[i], dA_before[i] = dA[i];
  }

  // Writes a strip's gradients of B and C, which are sums over the channels of the work item.
  static void write_step_sums(const ScanBackwardArgs<T>& args, const Workspace& w, int64_t index,
                              int64_t step, int64_t steps) {
    const int64_t state = args.in.size.state, apart = S::sums(S::padded(state));
    for (int64_t t = 0; t < steps; ++t) {
      T *dB = args.dB.at(index, 0, step + t), *dC = args.dC.at(index, 0, step + t);
      V* sums = w.dBC + t * apart;
      for (int64_t i = 0; i < state; i += kHalf, sums += S::kParts) {
        // The two tiles of kHalf states complete each other.
        if constexpr (S::kParts > 1) sums[0] = add_halves<N>(sums[0], sums[1]);
        const T* values = reinterpret_cast<const T*>(sums);
        if (state - i >= kHalf) {
          __builtin_memcpy(dB + i, values, kHalf * sizeof(T));
          __builtin_memcpy(dC + i, values + kHalf, kHalf * sizeof(T));
        } else {
          for (int64_t j = 0; i + j < state; ++j)
            dB[i + j] = values[j], dC[i + j] = values[kHalf + j];
        }
      }
    }
  }

  static void write_channel_sums(const ScanBackwardArgs<T>& args, const Workspace& w,
                                 const Item& item) {
    const ScanSizes& size = args.in.size;
    const int64_t n = S::padded(size.state);
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
