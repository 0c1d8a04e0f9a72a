// Vectors of W channels in the compiler's vector type, and the functions that the kernels apply to
// them. Everything has internal linkage: each instruction set compiles its own copy, and no copy
// can be linked in place of another.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace {

template <class T, int W>
struct VecOf {
  typedef T type __attribute__((vector_size(W * sizeof(T))));
};
template <class T, int W>
using Vec = typename VecOf<T, W>::type;

// Compile-time properties of a vector type.
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

// The first `count` lanes from memory, 0 in the others; nothing beyond is touched.
template <class V>
inline V load_first(const typename Lane<V>::scalar* p, int count) {
  [[maybe_unused]] typedef typename Lane<V>::scalar T;
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && sizeof(T) == 4)
    return (V)_mm512_maskz_loadu_ps((1u << count) - 1, p);
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32 && sizeof(T) == 4) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (V)_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes));
  }
#endif
  V v{};
  for (int i = 0; i < count; ++i) v[i] = p[i];
  return v;
}

// The first `count` lanes to memory; nothing beyond is touched.
template <class V>
inline void store_first(typename Lane<V>::scalar* p, V v, int count) {
  [[maybe_unused]] typedef typename Lane<V>::scalar T;
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && sizeof(T) == 4)
    return _mm512_mask_storeu_ps(p, (1u << count) - 1, (__m512)v);
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32 && sizeof(T) == 4) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes), (__m256)v);
  }
#endif
  for (int i = 0; i < count; ++i) p[i] = v[i];
}

// The first `lanes` lanes from memory or to it; all of them if lanes is a constant.
template <class V, class L>
VMB_INLINE inline V get(const typename Lane<V>::scalar* from, L lanes) {
  if constexpr (std::is_same_v<L, int>)
    return load_first<V>(from, lanes);
  else
    return load<V>(from);
}

template <class V, class L>
VMB_INLINE inline void put(typename Lane<V>::scalar* to, V v, L lanes) {
  if constexpr (std::is_same_v<L, int>)
    store_first<V>(to, v, lanes);
  else
    store<V>(to, v);
}

// Calls f(j, lanes) for the vectors of W values in [begin, end); lanes is a constant in those that
// are filled.
template <int W, class F>
VMB_INLINE inline void across(int64_t begin, int64_t end, const F& f) {
  int64_t j = begin;
  for (; j + W <= end; j += W) f(j, std::integral_constant<int, W>());
  if (j < end) f(j, static_cast<int>(end - j));
}

// f over the lanes, always in the same order: f(lower half, upper half) until one lane remains.
template <int Half, class V, class F>
inline typename Lane<V>::scalar fold_lanes(V v, const F& f) {
  constexpr int W = Lane<V>::width;
  typedef std::conditional_t<sizeof(v[0]) == 8, int64_t, int32_t> I
      __attribute__((vector_size(sizeof(V))));
  I upper{};
  for (int i = 0; i < W; ++i) upper[i] = (i + Half) % W;
  v = f(v, (V)__builtin_shuffle(v, upper));
  if constexpr (Half > 1)
    return fold_lanes<Half / 2>(v, f);
  else
    return v[0];
}

template <class V>
inline typename Lane<V>::scalar lane_sum(V v) {
  return fold_lanes<Lane<V>::width / 2>(v, [](V a, V b) { return a + b; });
}

template <class V>
inline typename Lane<V>::scalar lane_max(V v) {
  return fold_lanes<Lane<V>::width / 2>(v, [](V a, V b) { return a > b ? a : b; });
}

constexpr double kLog2e = 1.4426950408889634074;
constexpr double kLn2 = 0.6931471805599453094;

// The rounding error of the product of x and y (Dekker 1971), where there is no fused multiply-add;
// zero for values so large that splitting them overflows.
template <int W>
inline Vec<float, W> product_error(Vec<float, W> x, Vec<float, W> y, Vec<float, W> product) {
  using V = Vec<float, W>;
  auto upper_half = [](V a) {
    const V c = a * 4097.0f;
    return c - (c - a);
  };
  const V xh = upper_half(x), xl = x - xh, yh = upper_half(y), yl = y - yh;
  const V error = ((xh * yh - product) + xh * yl + xl * yh) + xl * yl;
  return error == error ? error : V{};
}

// The larger of a value and a bound, and the smaller; NaN stays NaN.
template <class V>
inline V at_least(V x, typename Lane<V>::scalar bound) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && sizeof(x[0]) == 4)
    return (V)_mm512_max_ps(_mm512_set1_ps(bound), (__m512)x);
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32 && sizeof(x[0]) == 4)
    return (V)_mm256_max_ps(_mm256_set1_ps(bound), (__m256)x);
#endif
  return x < bound ? splat<V>(bound) : x;
}

template <class V>
inline V at_most(V x, typename Lane<V>::scalar bound) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && sizeof(x[0]) == 4)
    return (V)_mm512_min_ps(_mm512_set1_ps(bound), (__m512)x);
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32 && sizeof(x[0]) == 4)
    return (V)_mm256_min_ps(_mm256_set1_ps(bound), (__m256)x);
#endif
  return x > bound ? splat<V>(bound) : x;
}

// A partly computed power of two: 2^fraction * scale. It is computed in two halves, `split` and
// `join`, so that a loop can begin the next power before it ends one: in total it takes seven to
// ten operations, each of which depends on the one before.
template <class V>
struct Power {
  V fraction, scale;
};

// 2^(x*y), first half. x*y is split into k and a fraction of at most 1/2 over the number of table
// entries, before anything is rounded: adding `magic` in one fused multiply-add rounds to a
// multiple of 1/entries, and one fused multiply-subtract leaves the fraction. 2^k is a power of two
// times a table entry, and the table is one register or two. Above 2^127.98 (AVX2: 2^127.9,
// portable: 2^127.5) the result is infinity; below 2^-126 zero or some denormal number; NaN stays
// NaN. InRange skips the handling of these: the caller guarantees |x*y| < 126.
// tests/library/elementwise.rs checks the bound of 2 ulp.
// `rest`, a small multiple of x, is added to the exponent: the rounding error of y.
template <int W, bool InRange = false>
inline Power<Vec<float, W>> split(Vec<float, W> x, Vec<float, W> y, float rest = 0) {
  using V = Vec<float, W>;
#if defined(__AVX512F__)
  if constexpr (W == 16) {
    // 1.5 * 2^23 / 32: the low five bits of the sum count 32nds.
    const __m512 magic = _mm512_set1_ps(393216.0f);
    const __m512 shifted = _mm512_fmadd_ps((__m512)x, (__m512)y, magic);
    const __m512 k = _mm512_sub_ps(shifted, magic);
    __m512 f = _mm512_fmsub_ps((__m512)x, (__m512)y, k);
    if (rest != 0) f = _mm512_fmadd_ps((__m512)x, _mm512_set1_ps(rest), f);
    // The fraction of an infinite product is NaN (inf - inf), that of a huge one is wrong: any
    // small number is right where the scale is 0 or infinity.
    if (!InRange) f = _mm512_range_ps(_mm512_set1_ps(0.5f), f, 0b0110);
    const __m512 lower =
        _mm512_setr_ps(1.0f, 1.0218972f, 1.0442737f, 1.0671405f, 1.0905077f, 1.1143868f,
                       1.1387886f, 1.1637249f, 1.1892071f, 1.2152474f, 1.2418578f, 1.269051f,
                       1.2968396f, 1.3252367f, 1.3542556f, 1.38391f),
                 upper =
        _mm512_setr_ps(1.4142135f, 1.4451808f, 1.4768262f, 1.5091645f, 1.5422108f, 1.5759809f,
                       1.6104903f, 1.6457555f, 1.6817929f, 1.7186193f, 1.7562522f, 1.7947091f,
                       1.8340081f, 1.8741677f, 1.9152066f, 1.9571441f);
    const __m512 power = _mm512_permutex2var_ps(lower, (__m512i)shifted, upper);
    return {(V)f, (V)_mm512_scalef_ps(power, k)};
  }
#endif
#if defined(__AVX2__)
  if constexpr (W == 8) {
    // Eighths plus 127, between 0 and 255: three bits count eighths, those above are the exponent
    // field of the power.
    const float magic = 1572864.0f + 127.0f;
    V shifted = (V)_mm256_fmadd_ps((__m256)x, (__m256)y, _mm256_set1_ps(magic));
    if (!InRange) shifted = at_most(at_least(shifted, 1572864.0f), 1572864.0f + 255.0f);
    const V k = shifted - magic;
    V f = (V)_mm256_fmsub_ps((__m256)x, (__m256)y, (__m256)k);
    if (rest != 0) f = (V)_mm256_fmadd_ps((__m256)x, _mm256_set1_ps(rest), (__m256)f);
    if (!InRange)
      f = at_least(f, -0.5f);  // where the power is 0, no infinity comes to it; where it is
                               // infinite, f is above -1/16
    // The bits of 2^(i/8), minus the exponent of 1 and minus the bits that i itself adds.
    const __m256i eighths =
        _mm256_setr_epi32(0, -289342, -509968, -655657, -719629, -694486, -572163, -343865);
    return {f, (V)_mm256_add_epi32(_mm256_slli_epi32((__m256i)shifted, 20),
                                   _mm256_permutevar8x32_epi32(eighths, (__m256i)shifted))};
  }
#endif
  // Outside the range the power is 0 or infinity for any fraction. The product is written out in
  // each sum: a product in a variable of its own would not be contracted.
  const float magic = 12582912.0f + 127.0f;
  V shifted = x * y + magic;
  if (!InRange) shifted = at_most(at_least(shifted, 12582912.0f), 12582912.0f + 255.0f);
  const V k = shifted - magic;
#if defined(__FMA__) || defined(__aarch64__)
  V f = x * y - k;  // contracted: the product is not rounded
#else
  const V t = x * y;
  V f = (t - k) + product_error<W>(x, y, t);
#endif
  if (rest != 0) f += x * rest;
  if (!InRange)
    f = at_most(at_least(f, -0.75f), 0.75f);  // 1/2, and the rounding error of the product
  typedef int32_t I __attribute__((vector_size(W * sizeof(int32_t))));
  return {f, (V)((I)shifted << 23)};
}

template <int W, bool InRange = false>
inline Power<Vec<double, W>> split(Vec<double, W> x, Vec<double, W> y, double = 0) {
  return {x * y, Vec<double, W>{}};
}

// The second half: 2^fraction as a polynomial, minimax over the fractions of `split`. InRange as
// there.
template <class V, bool InRange = false>
inline V join(Power<V> power) {
  using T = typename Lane<V>::scalar;
  constexpr int W = Lane<V>::width;
  const V f = power.fraction;
  if constexpr (sizeof(T) == 8) {
    V r;
    for (int i = 0; i < W; ++i) r[i] = std::exp2(f[i]);
    return r;
  } else {
#if defined(__AVX512F__)
    if constexpr (W == 16) {
      // The sum is rounded once. An infinite scale times a fraction of 0 would be NaN.
      const V scale = InRange ? power.scale : at_most(power.scale, 3.40282347e38f);
      return (0.2402288f * f + 0.69315734f) * (f * scale) + power.scale;
    }
#endif
#if defined(__AVX2__)
    if constexpr (W == 8)
      return (((0.05551062f * f + 0.24025782f) * f + 0.69314717f) * f + 1.0f) * power.scale;
#endif
    V p = splat<V>(0.0001534581242594868f);
    p = p * f + 0.0013399930903688073f;
    p = p * f + 0.009618489071726799f;
    p = p * f + 0.05550328642129898f;
    p = p * f + 0.24022646248340607f;
    p = p * f + 0.6931471824645996f;
    return (p * f + 1.0f) * power.scale;
  }
}

// 2^(x*y)
template <class V, bool InRange = false>
inline V exp2_product(V x, V y) {
  return join<V, InRange>(split<Lane<V>::width, InRange>(x, y));
}

// exp(x), first half, float32 only. log2(e) is a sum of two floats, so that large |x| keep their
// last bits.
template <class V>
inline Power<V> split_exp(V x) {
  return split<Lane<V>::width>(x, splat<V>(1.44269502162933349609f), 1.92596299112661746887e-8f);
}

// exp(x)
template <class V>
inline V exp_of(V x) {
  using T = typename Lane<V>::scalar;
  if constexpr (sizeof(T) == 8) {
    V r;
    for (int i = 0; i < Lane<V>::width; ++i) r[i] = std::exp(x[i]);
    return r;
  } else {
    return join<V>(split_exp<V>(x));
  }
}

// log(1 + t) for t in [0, 1], by 2 atanh(t / (2 + t)), whose series in s^2 <= 1/9 converges fast.
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
    V p = splat<V>(0.280119866f);
    p = p * q + 0.280018061f;
    p = p * q + 0.400215268f;
    p = p * q + 0.666664183f;
    p = p * q + 2.0f;
    return p * s;
  }
}

// -|x|
template <class V>
inline V negative(V x) {
  using T = typename Lane<V>::scalar;
  typedef std::conditional_t<sizeof(T) == 8, int64_t, int32_t> I
      __attribute__((vector_size(sizeof(V))));
  return (V)((I)x | (I)splat<V>(T(-0.0)));
}

// exp for K vectors: the first halves of all come before the second halves.
template <int K, class V>
VMB_INLINE inline void exps(const V* x, V* out) {
  if constexpr (sizeof(typename Lane<V>::scalar) == 8) {
    for (int i = 0; i < K; ++i) out[i] = exp_of<V>(x[i]);
  } else {
    Power<V> powers[K];
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) powers[i] = split_exp<V>(x[i]);
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) out[i] = join<V>(powers[i]);
  }
}

// 1 / (1 + exp(-x)) for K vectors; 0 where the exponential is infinite.
template <int K, class V>
VMB_INLINE inline void sigmoids(const V* x, V* out) {
  using T = typename Lane<V>::scalar;
  V e[K];
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) e[i] = -x[i];
  exps<K, V>(e, e);
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) out[i] = T(1) / (e[i] + T(1));
}

// log(1 + exp(x)) for K vectors, in place, and its slopes if `slope` is given.
// torch.nn.functional.softplus is x itself above 20; there the two are equal in float32.
template <int K, class V>
VMB_INLINE inline void softpluses(V* x, V* slopes = nullptr) {
  using T = typename Lane<V>::scalar;
  V e[K];
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) e[i] = negative<V>(x[i]);
  exps<K, V>(e, e);
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) {
    V value = at_least<V>(x[i], T(0)) + log1p_unit<V>(e[i]);
    V slope = (x[i] < T(0) ? e[i] : splat<V>(1)) / (e[i] + T(1));
    if constexpr (sizeof(T) == 8) {
      slope = x[i] > T(20) ? splat<V>(1) : slope;
      value = x[i] > T(20) ? x[i] : value;
    }
    if (slopes) slopes[i] = slope;
    x[i] = value;
  }
}

}  // namespace
