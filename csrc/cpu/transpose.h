// Transposition of W x W values in registers, between memory with adjacent steps and rows of W
// channels, and sums over lanes.
#pragma once

#include "vec_math.h"

namespace {

template <class T>
using IndexOf = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

// Lanes of a butterfly over `half`, for __builtin_shuffle(a, b): the lower result takes a's lanes
// whose bit `half` is clear and, into the others, b's same lanes; the upper one those whose bit is
// set.
template <class T, int W>
inline Vec<IndexOf<T>, W> butterfly(int half, bool upper) {
  Vec<IndexOf<T>, W> lanes{};
  for (int c = 0; c < W; ++c)
    lanes[c] = upper ? ((c & half) ? W + c : c + half) : ((c & half) ? W + c - half : c);
  return lanes;
}

// rows[i][j] becomes rows[j][i], in log2(W) stages of W shuffles.
template <int Half, class T, int W>
inline void transpose(Vec<T, W>* rows) {
  const auto lower = butterfly<T, W>(Half, false), upper = butterfly<T, W>(Half, true);
  for (int i = 0; i < W; ++i) {
    if (i & Half) continue;
    const Vec<T, W> a = rows[i], b = rows[i + Half];
    rows[i] = __builtin_shuffle(a, b, lower);
    rows[i + Half] = __builtin_shuffle(a, b, upper);
  }
  if constexpr (Half > 1) transpose<Half / 2, T, W>(rows);
}

// One stage of summing over lanes: lanes of the lower halves (bit Half clear) get sums of a's
// halves, lanes of the upper halves those of b's.
template <int Half, class V>
inline V add_halves(V a, V b) {
  using T = typename Lane<V>::scalar;
  constexpr int W = Lane<V>::width;
  Vec<IndexOf<T>, W> stay{}, move{};
  for (int c = 0; c < W; ++c)
    stay[c] = (c & Half) ? W + c : c, move[c] = (c & Half) ? W + c - Half : c + Half;
  return __builtin_shuffle(a, b, stay) + __builtin_shuffle(a, b, move);
}

// The remaining stages for 2 * Half vectors from earlier stages: rows[0] gets all sums, those of
// rows[i] in lane i.
template <int Half, class V>
inline void add_rest(V* rows) {
  if constexpr (Half > 0) {
#pragma GCC unroll 8
    for (int i = 0; i < Half; ++i) rows[i] = add_halves<Half>(rows[i], rows[i + Half]);
    add_rest<Half / 2>(rows);
  }
}

}  // namespace
