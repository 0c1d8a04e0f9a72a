// The compute bound of a scan: only the exponentials and multiply-adds of a pass, on values that
// never leave the registers. No load, store, packing, division, logarithm, or sum over lanes or
// work items. `vmbeauty benchmark scan` runs it over the same work items and threads as the scan
// and reports how close the scan comes.
#pragma once

#include "scan_kernel.h"

namespace {

// Makes the compiler forget the value, with no instruction, so that it does not merge equal
// operations on it.
template <class V>
inline void forget(V& v) {
#if defined(__AVX512F__)
  asm volatile("" : "+v"(v));
#elif defined(__x86_64__)
  asm volatile("" : "+x"(v));
#elif defined(__aarch64__)
  asm volatile("" : "+w"(v));
#else
  asm volatile("" : "+m"(v));
#endif
}

template <class T, int W, int N>
struct Limit {
  using V = Vec<T, W>;

  // Softplus and gate: one exponential each for every (batch, channel, step), in both passes.
  static V step_exponentials(V x, V scale) {
    V sum{};
    for (int i = 0; i < 2; ++i) {
      forget(x);
      sum += exp2_product<V>(x, scale);
    }
    return sum;
  }

  // For every state: one exponential, and three multiply-adds (dt u B, h, y).
  static T forward(const ScanSizes& size, int64_t begin, int64_t end) {
    V sum{};
    each_tile(size, begin, end, [&](bool first) {
      V A = splat<V>(T(-0.5)), B = splat<V>(T(0.25)), dt = splat<V>(T(0.125)),
        dtu = splat<V>(T(0.0625)), y{};
      V h[N];
      for (V& x : h) x = V{};
      for (int64_t t = 0; t < size.length; ++t) {
        forget(dt), forget(dtu);
        if (first) sum += step_exponentials(dt, A);
        for (int i = 0; i < N; ++i) {
          forget(A), forget(B);
          h[i] = exp2_product<V, true>(dt, A) * h[i] + dtu * B;
          y += h[i] * B;
        }
      }
      for (V& x : h) y += x;
      sum += y;
    });
    return lane_sum<V>(sum);
  }

  // For every state: one exponential, and eleven multiply-adds: the state again (2), and then the
  // gradient of the state, of C, y, of dt u, of B, the step through the decay, its product with the
  // state before, and its terms in the gradients of dt and A.
  static T backward(const ScanSizes& size, int64_t begin, int64_t end) {
    V sum{};
    each_tile(size, begin, end, [&](bool first) {
      V A = splat<V>(T(-0.5)), B = splat<V>(T(0.25)), dt = splat<V>(T(0.125)),
        dtu = splat<V>(T(0.0625)), dy = splat<V>(T(0.03125));
      V y{}, sum_dtu{}, sum_dt{}, dB{}, dC{}, dA{}, h{};
      V dh[N];
      for (V& x : dh) x = V{};
      for (int64_t t = 0; t < size.length; ++t) {
        forget(dt), forget(dtu), forget(dy);
        if (first) sum += step_exponentials(dt, A);
        for (int i = 0; i < N; ++i) {
          forget(A), forget(B), forget(h);
          const V decay = exp2_product<V, true>(dt, A);
          const V after = decay * h + dtu * B;
          dh[i] += dy * B;
          dC += dy * after;
          y += after * B;
          sum_dtu += dh[i] * B;
          dB += dh[i] * dtu;
          dh[i] *= decay;
          const V through = dh[i] * h;
          sum_dt += through * A;
          dA += through * dt;
        }
      }
      for (V& x : dh) y += x;
      sum += y + sum_dtu + sum_dt + dB + dC + dA;
    });
    return lane_sum<V>(sum);
  }

 private:
  // Calls f(whether the tile is the first of its channels) for every tile of W channels and N
  // states; a partly filled last tile counts in full, as in the kernels.
  template <class F>
  static void each_tile(const ScanSizes& size, int64_t begin, int64_t end, const F& f) {
    for (int64_t index = begin; index < end; ++index) {
      const typename Rows<T, W>::Item item(size, index);
      for (int64_t block = 0; block < item.blocks; ++block)
        for (int64_t i = 0; i < size.state; i += N) f(i == 0);
    }
  }
};

}  // namespace
