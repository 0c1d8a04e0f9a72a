// Vectors of W channels in the compiler's own vector type, and the functions that the kernels need on them. Everything has
// internal linkage: each instruction set compiles its own copy and no copy can be linked in place of another.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

template <class T, int W>
struct VecOf {
  typedef T type __attribute__((vector_size(W * sizeof(T))));
};
template <class T, int W>
using Vec = typename VecOf<T, W>::type;

// Compile-time facts about a vector type.
template <class V>
struct Lane {
  using scalar = std::remove_reference_t<decltype(std::declval<V&>()[0])>;
  static constexpr int width = sizeof(V) / sizeof(scalar);
};

template <class V>
inline V splat(typename Lane<V>::scalar x) {
  return x - V{};
}

template <class V>
inline V load(const typename Lane<V>::scalar* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}

template <class V>
inline void store(typename Lane<V>::scalar* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

// The sum of the lanes, always in the same order: halves are added until one lane is left.
template <class V>
inline typename Lane<V>::scalar lane_sum(V v) {
  typename Lane<V>::scalar lanes[Lane<V>::width];
  store<V>(lanes, v);
  for (int half = Lane<V>::width / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

constexpr double kLog2e = 1.4426950408889634074;
constexpr double kLn2 = 0.6931471805599453094;

// 2^(x*y). The product is split into integer and fraction before it is rounded (one fused multiply-subtract, where the processor has it), so the
// error stays that of 2^f, |f| <= 1/2: a minimax polynomial of degree 6, 2e-9 relative in exact arithmetic, within
// 1 ulp evaluated in float. Above 2^128: infinity; below 2^-126: zero (denormal results are flushed); NaN stays NaN.
template <int W>
inline Vec<float, W> exp2_product(Vec<float, W> x, Vec<float, W> y) {
  using V = Vec<float, W>;
  auto polynomial = [](V f) {
    V p = splat<V>(0.0001534581242594868f);
    p = p * f + 0.0013399930903688073f;
    p = p * f + 0.009618489071726799f;
    p = p * f + 0.05550328642129898f;
    p = p * f + 0.24022646248340607f;
    p = p * f + 0.6931471824645996f;
    return p * f + 1.0f;
  };
#if defined(__AVX512F__)
  if constexpr (W == 16) {
    const __m512 k = _mm512_roundscale_ps((__m512)(x * y), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    V f = (V)_mm512_fmsub_ps((__m512)x, (__m512)y, k);
    // An infinite product leaves no fraction (inf - inf): take zero there, and let scalef make 0 or infinity.
    f = (V)_mm512_range_ps(_mm512_set1_ps(0.5f), (__m512)f, 0b0110);
    return (V)_mm512_scalef_ps((__m512)polynomial(f), k);
  }
#endif
  typedef int32_t I __attribute__((vector_size(W * sizeof(int32_t))));
  V t = x * y;
  // Adding 1.5 * 2^23 rounds to an integer; 127 more and the low bits are the exponent field of 2^k.
  const float magic = 12582912.0f + 127.0f;
  V inside = t < -127.0f ? splat<V>(-127.0f) : t;
  inside = inside > 128.0f ? splat<V>(128.0f) : inside;
  V shifted = inside + magic;
  V k = shifted - magic;
  V f = x * y - k;
  // Outside the range the power is 0 or infinity whatever the fraction is.
  f = f > 0.5f ? splat<V>(0.5f) : f;
  f = f < -0.5f ? splat<V>(-0.5f) : f;
  I bits;
  __builtin_memcpy(&bits, &shifted, sizeof(V));
  bits <<= 23;
  V power;
  __builtin_memcpy(&power, &bits, sizeof(V));
  return polynomial(f) * power;
}

template <int W>
inline Vec<double, W> exp2_product(Vec<double, W> x, Vec<double, W> y) {
  Vec<double, W> r;
  for (int i = 0; i < W; ++i) r[i] = std::exp2(x[i] * y[i]);
  return r;
}

template <class V>
inline V exp_of(V x) {
  // log2(e) in two parts: the second repairs the rounding of the first, so that large |x| keep their last bits.
  using T = typename Lane<V>::scalar;
  constexpr int W = Lane<V>::width;
  if constexpr (sizeof(T) == 8) {
    V r;
    for (int i = 0; i < W; ++i) r[i] = std::exp(x[i]);
    return r;
  } else {
    const float high = 1.44269502162933349609f, low = 1.92596299112661746887e-8f;
    V power = exp2_product<W>(x, splat<V>(high));
    V correction = x * (low * static_cast<float>(kLn2));
    // Infinite x has no correction to make.
    correction = (correction * 0.0f == 0.0f) ? correction : V{};
    return power + power * correction;
  }
}

// log(1 + t) for t in [0, 1], by 2 atanh(t / (2 + t)): the series in s^2 <= 1/9 converges fast.
template <class V>
inline V log1p_unit(V t) {
  using T = typename Lane<V>::scalar;
  constexpr int W = Lane<V>::width;
  if constexpr (sizeof(T) == 8) {
    V r;
    for (int i = 0; i < W; ++i) r[i] = std::log1p(t[i]);
    return r;
  } else {
    V s = t / (t + 2.0f);
    V q = s * s;
    V p = splat<V>(2.0f / 15);
    p = p * q + 2.0f / 13;
    p = p * q + 2.0f / 11;
    p = p * q + 2.0f / 9;
    p = p * q + 2.0f / 7;
    p = p * q + 2.0f / 5;
    p = p * q + 2.0f / 3;
    p = p * q + 2.0f;
    return p * s;
  }
}

// log(1 + exp(x)), and x itself above 20, as torch.nn.functional.softplus.
template <class V>
inline V softplus(V x) {
  using T = typename Lane<V>::scalar;
  V below = x < T(0) ? x : -x;
  V positive = x > T(0) ? x : V{};
  V value = positive + log1p_unit<V>(exp_of<V>(below));
  value = x > T(20) ? x : value;
  return x == x ? value : x;
}

template <class V>
inline V sigmoid(V x) {
  // exp of a negative number only: no overflow on the way.
  using T = typename Lane<V>::scalar;
  V below = x < T(0) ? x : -x;
  V e = exp_of<V>(below);
  V high = T(1) / (e + T(1));
  return x < T(0) ? e * high : high;
}

}  // namespace
