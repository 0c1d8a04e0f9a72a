// Layer and RMS normalization of rows on CPU, with the residual addition before it, vectorized over
// the elements of a row; included once per instruction set.
#pragma once

#include "kernels.h"
#include "vec_math.h"

namespace {

using namespace vmb;

template <class T, int W>
struct Norm {
  using V = Vec<T, W>;

  // The vector with zeros in the lanes that the row does not have.
  template <class L>
  static VMB_INLINE V keep(V v, L lanes) {
    if constexpr (std::is_same_v<L, int>)
      for (int i = lanes; i < W; ++i) v[i] = 0;
    return v;
  }

  static VMB_INLINE T square_root(T x) {
    if constexpr (sizeof(T) == 8)
      return __builtin_sqrt(x);
    else
      return __builtin_sqrtf(x);
  }

  static int64_t end_of(int64_t block, int64_t rows) {
    return (block + 1) * kNormRows < rows ? (block + 1) * kNormRows : rows;
  }

  static void forward(const NormForwardArgs<T>& args, int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      for (int64_t row = block * kNormRows; row < end_of(block, args.rows); ++row) {
        const T* x = args.x + row * args.dim;
        if (args.update) x = add_update(args, row);
        if (args.weight) normalize(args, row, x);
      }
  }

  static const T* add_update(const NormForwardArgs<T>& args, int64_t row) {
    const int64_t first = row * args.dim;
    const T factor = args.factors ? args.factors[row / args.rows_per_factor] : T(1);
    const T *x = args.x + first, *update = args.update + first;
    T* const sum = args.sum + first;
    across<W>(0, args.dim, [&](int64_t j, auto lanes) {
      put<V>(sum + j, get<V>(x + j, lanes) + factor * get<V>(update + j, lanes), lanes);
    });
    return sum;
  }

  static void normalize(const NormForwardArgs<T>& args, int64_t row, const T* x) {
    const int64_t dim = args.dim;
    const T *weight = args.weight, *bias = args.bias;
    T* const out = args.out + row * dim;
    T mean = 0;
    if (bias) {
      V total{};
      across<W>(0, dim, [&](int64_t j, auto lanes) { total += get<V>(x + j, lanes); });
      mean = lane_sum<V>(total) / dim;
      args.mean[row] = mean;
    }
    V squares{};
    across<W>(0, dim, [&](int64_t j, auto lanes) {
      const V centered = keep(get<V>(x + j, lanes) - mean, lanes);
      squares += centered * centered;
    });
    const T rstd = T(1) / square_root(lane_sum<V>(squares) / dim + args.eps);
    args.rstd[row] = rstd;
    across<W>(0, dim, [&](int64_t j, auto lanes) {
      V normed = (get<V>(x + j, lanes) - mean) * rstd * get<V>(weight + j, lanes);
      if (bias) normed += get<V>(bias + j, lanes);
      put<V>(out + j, normed, lanes);
    });
  }

  static void backward(const NormBackwardArgs<T>& args, int64_t begin, int64_t end) {
    const int64_t dim = args.dim;
    for (int64_t block = begin; block < end; ++block) {
      T *const dweight = args.dweight + block * dim,
        *const dbias = args.dbias ? args.dbias + block * dim : nullptr;
      for (int64_t j = 0; j < dim; ++j) dweight[j] = 0;
      if (dbias)
        for (int64_t j = 0; j < dim; ++j) dbias[j] = 0;
      for (int64_t row = block * kNormRows; row < end_of(block, args.rows); ++row)
        backward_row(args, row, dweight, dbias);
    }
  }

  // With n = (x - mean) rstd and g = dout weight, the gradient of x is
  // rstd (g - mean(g) - n mean(g n)), without mean(g) in an RMS norm.
  static void backward_row(const NormBackwardArgs<T>& args, int64_t row, T* dweight, T* dbias) {
    const int64_t dim = args.dim, first = row * dim;
    const T *x = args.x + first, *dout = args.dout + first, *weight = args.weight,
            *dsum = args.dsum ? args.dsum + first : nullptr;
    T *const dx = args.dx + first, *const dupdate = args.dupdate ? args.dupdate + first : nullptr;
    const T mean = dbias ? args.mean[row] : T(0), rstd = args.rstd[row];
    V total{}, projection{};
    across<W>(0, dim, [&](int64_t j, auto lanes) {
      const V d = get<V>(dout + j, lanes), normed = (get<V>(x + j, lanes) - mean) * rstd,
              g = d * get<V>(weight + j, lanes);
      total += g;
      projection += g * normed;
      put<V>(dweight + j, get<V>(dweight + j, lanes) + d * normed, lanes);
      if (dbias) put<V>(dbias + j, get<V>(dbias + j, lanes) + d, lanes);
    });
    const T shift = dbias ? lane_sum<V>(total) / dim : T(0),
            along = lane_sum<V>(projection) / dim,
            factor = args.factors ? args.factors[row / args.rows_per_factor] : T(1);
    across<W>(0, dim, [&](int64_t j, auto lanes) {
      const V normed = (get<V>(x + j, lanes) - mean) * rstd,
              g = get<V>(dout + j, lanes) * get<V>(weight + j, lanes);
      V gradient = rstd * (g - shift - normed * along);
      if (dsum) gradient += get<V>(dsum + j, lanes);
      put<V>(dx + j, gradient, lanes);
      if (dupdate) put<V>(dupdate + j, factor * gradient, lanes);
    });
  }
};

}  // namespace
