// GELU (arXiv 1606.08415), x P(X <= x) of a standard normal X, and its usual approximation x
// sigmoid(1.702 x), on CPU; included once per instruction set.
#pragma once

#include "vec_math.h"

namespace {

using namespace vmb;

template <class T, int W>
struct Gelu {
  using V = Vec<T, W>;

  // A gate and its slope: the result is x gate.
  struct Gate {
    V value, slope;
  };

  // The normal distribution and its density. The upper tail is the exponential of the density times
  // a factor that falls slowly, from 1/2 at 0: a polynomial in c t / (1 + c t), fitted for the
  // least absolute error of the product. The distribution is within 9e-8.
  static VMB_INLINE Gate normal(V x) {
    constexpr double kDensity = 0.3989422804014327;  // 1 / sqrt(2 pi)
    if constexpr (sizeof(T) == 8) {
      Gate gate;
      for (int i = 0; i < W; ++i) {
        gate.value[i] = 0.5 * std::erfc(-x[i] * 0.7071067811865476);
        gate.slope[i] = kDensity * std::exp(-0.5 * x[i] * x[i]);
      }
      return gate;
    } else {
      // The bound keeps v from being the quotient of two infinities; the tail is 0 long before.
      const V t = at_most<V>(-negative<V>(x), 1e3f),
              e = exp2_product<V>(t, t * static_cast<T>(-0.5 * kLog2e));
      const V scaled = 0.28125f * t, v = scaled / (1.0f + scaled);
      V tail = splat<V>(-0.10340791f);
      tail = tail * v + 0.24555002f;
      tail = tail * v + 0.10749386f;
      tail = tail * v - 1.0732154f;
      tail = tail * v + 1.7419308f;
      tail = tail * v - 1.4184594f;
      tail = (tail * v + 0.5f) * e;
      return {x < 0.0f ? tail : 1.0f - tail, static_cast<T>(kDensity) * e};
    }
  }

  static VMB_INLINE Gate quick(V x) {
    constexpr T kRate = static_cast<T>(1.702);
    V gate, scaled = x * kRate;
    sigmoids<1>(&scaled, &gate);
    return {gate, kRate * gate * (T(1) - gate)};
  }

  template <class F>
  static void for_gate(bool is_quick, const F& f) {
    // Not as functions, which would be called for each vector.
    if (is_quick)
      f([](V x) VMB_INLINE { return quick(x); });
    else
      f([](V x) VMB_INLINE { return normal(x); });
  }

  static void forward(const GeluForwardArgs<T>& args, int64_t begin, int64_t end) {
    for_gate(args.quick, [&](auto gate) {
      across<W>(begin, end, [&](int64_t j, auto lanes) {
        const V x = get<V>(args.x + j, lanes);
        put<V>(args.out + j, x * gate(x).value, lanes);
      });
    });
  }

  static void backward(const GeluBackwardArgs<T>& args, int64_t begin, int64_t end) {
    for_gate(args.quick, [&](auto gate) {
      across<W>(begin, end, [&](int64_t j, auto lanes) {
        const V x = get<V>(args.x + j, lanes), dout = get<V>(args.dout + j, lanes);
        const Gate g = gate(x);
        put<V>(args.out + j, x * g.value, lanes);
        put<V>(args.dx + j, dout * (g.value + x * g.slope), lanes);
      });
    });
  }
};

}  // namespace
