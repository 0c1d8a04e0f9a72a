// Matrix products on CPU, of matrices that fit the second- or third-level cache; included once per
// instruction set.
//
// A work item is a panel of kPanel columns. The right matrix's columns of the panel are packed into
// adjacent rows, so that they stream through the first-level cache; the sums of a tile of kRows
// rows stay in registers over the inner dimension. Every element is one sum in index order.
#pragma once

#include "kernels.h"
#include "transpose.h"
#include "vec_math.h"

namespace {

using namespace vmb;

template <class T, int W>
struct Gemm {
  using V = Vec<T, W>;
  // Rows and vectors of a tile: with AVX-512, 24 sums of 32 registers.
  static constexpr int kRows = W == 16 ? 6 : 4, kVectors = W == 16 ? 4 : 2;
  static constexpr int64_t kPanel = kVectors * W;

  // c = start + a b for R rows and C vectors of columns, of which the last has `lanes` lanes:
  // a (R, inner) in any strides, b (inner, C W). start may be c, a bias (with 0 values from one row
  // to the next), or null.
  template <int R, int C>
  static void tile(int64_t inner, const T* a, int64_t a_row, int64_t a_step, const T* b,
                   int64_t b_step, const T* start, int64_t start_row, T* c, int64_t c_row,
                   int lanes) {
    V sums[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int i = 0; i < C; ++i) {
        const T* from = start + r * start_row + i * W;
        sums[r][i] = !start                      ? V{}
                     : i + 1 < C || lanes == W ? load<V>(from)
                                                 : load_first<V>(from, lanes);
      }
    for (int64_t p = 0; p < inner; ++p) {
      V right[C];
#pragma GCC unroll 8
      for (int i = 0; i < C; ++i) right[i] = load<V>(b + p * b_step + i * W);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const T left = a[r * a_row + p * a_step];
#pragma GCC unroll 8
        for (int i = 0; i < C; ++i) sums[r][i] += left * right[i];
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int i = 0; i < C; ++i) {
        T* to = c + r * c_row + i * W;
        if (i + 1 < C || lanes == W)
          store<V>(to, sums[r][i]);
        else
          store_first<V>(to, sums[r][i], lanes);
      }
  }

  // Calls f with the number of vectors, at most kVectors, as a constant.
  template <class F>
  static VMB_INLINE void for_vectors(int64_t vectors, const F& f) {
    if (vectors >= kVectors)
      f(std::integral_constant<int, kVectors>());
    else if (vectors == 3)
      f(std::integral_constant<int, 3>());
    else if (vectors == 2)
      f(std::integral_constant<int, 2>());
    else
      f(std::integral_constant<int, 1>());
  }

  static int64_t workspace(const GemmSizes& size) {
    return kPanel * size.inner * static_cast<int64_t>(sizeof(T));
  }

  static void panels(const GemmArgs<T>& args, int64_t begin, int64_t end, void* memory) {
    T* const packed = static_cast<T*>(memory);
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t first = panel * kPanel, left = args.size.columns - first,
                    columns = left < kPanel ? left : kPanel;
      for_vectors((columns + W - 1) / W, [&](auto vectors) {
        pack(packed, args, first, columns, vectors * W);
        const int lanes = static_cast<int>(columns - (vectors - 1) * W);
        multiply_panel<vectors>(args, packed, first, lanes);
      });
    }
  }

  template <int C>
  static void multiply_panel(const GemmArgs<T>& args, const T* packed, int64_t first, int lanes) {
    int64_t row = 0;
    const auto rows = [&](auto count) {
      T* const c = args.c + row * args.c_row + first;
      const T* const start = args.add ? c : args.bias ? args.bias + first : nullptr;
      tile<count, C>(args.size.inner, args.a + row * args.a_row, args.a_row, args.a_step, packed,
                     C * W, start, args.add ? args.c_row : 0, c, args.c_row, lanes);
      row += count;
    };
    while (row + kRows <= args.size.rows) rows(std::integral_constant<int, kRows>());
    while (row + 2 <= args.size.rows) rows(std::integral_constant<int, 2>());
    if (row < args.size.rows) rows(std::integral_constant<int, 1>());
  }

  // Columns [first, first + columns) of the right matrix as rows of `width` values.
  static void pack(T* to, const GemmArgs<T>& args, int64_t first, int64_t columns, int64_t width) {
    const int64_t inner = args.size.inner;
    if (args.b_column == 1) {
      for (int64_t p = 0; p < inner; ++p)
        for (int64_t j = 0; j < width; j += W)
          store<V>(to + p * width + j, some(args.b + p * args.b_step + first + j, columns - j));
      return;
    }
    for (int64_t p = 0; p < inner; p += W)
      for (int64_t j = 0; j < width; j += W) {
        const T* const from = args.b + (first + j) * args.b_column + p;
        V block[W];
        if (columns - j >= W && inner - p >= W)
          for (int i = 0; i < W; ++i) block[i] = load<V>(from + i * args.b_column);
        else
          for (int i = 0; i < W; ++i)
            block[i] = j + i < columns ? some(from + i * args.b_column, inner - p) : V{};
        transpose<W / 2, T, W>(block);
        for (int i = 0; i < W && p + i < inner; ++i) store<V>(to + (p + i) * width + j, block[i]);
      }
  }

  static V some(const T* from, int64_t left) {
    return left >= W ? load<V>(from) : load_first<V>(from, static_cast<int>(left));
  }
};

}  // namespace
