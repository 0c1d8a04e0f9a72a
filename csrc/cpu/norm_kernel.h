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

  // Calls f(j, lanes) for the vectors of a row; lanes is a constant in those that the row fills.
  template <class F>
  static VMB_INLINE void across(int64_t dim, const F& f) {
    int64_t j = 0;
    for (; j + W <= dim; j += W) f(j, std::integral_constant<int, W>());
    if (j < dim) f(j, static_cast<int>(dim - j));
  }

  template <class L>
  static VMB_INLINE V get(const T* from, L lanes) {
    if constexpr (std::is_same_v<L, int>)
      return load_first<V>(from, lanes);
    else
      return load<V>(from);
  }

  template <class L>
  static VMB_INLINE void put(T* to, V v, L lanes) {
    if constexpr (std::is_same_v<L, int>)
      store_first<V>(to, v, lanes);
    else
      store<V>(to, v);
  }

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
    across(args.dim, [&](int64_t j, auto lanes) {
      put(sum + j, get(x + j, lanes) + factor * get(update + j, lanes), lanes);
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
      across(dim, [&](int64_t j, auto lanes) { total += get(x + j, lanes); });
      mean = lane_sum<V>(total) / dim;
      args.mean[row] = mean;
    }
    V squares{};
    across(dim, [&](int64_t j, auto lanes) {
      const V centered = keep(get(x + j, lanes) - mean, lanes);
      squares += centered * centered;
    });
    const T rstd = T(1) / square_root(lane_sum<V>(squares) / dim + args.eps);
    args.rstd[row] = rstd;
    across(dim, [&](int64_t j, auto lanes) {
      V normed = (get(x + j, lanes) - mean) * rstd * get(weight + j, lanes);
      if (bias) normed += get(bias + j, lanes);
      put(out + j, normed, lanes);
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
    across(dim, [&](int64_t j, auto lanes) {
      const V d = get(dout + j, lanes), normed = (get(x + j, lanes) - mean) * rstd,
              g = d * get(weight + j, lanes);
      total += g;
      projection += g * normed;
      put(dweight + j, get(dweight + j, lanes) + d * normed, lanes);
      if (dbias) put(dbias + j, get(dbias + j, lanes) + d, lanes);
    });
    const T shift = dbias ? lane_sum<V>(total) / dim : T(0),
            along = lane_sum<V>(projection) / dim,
            factor = args.factors ? args.factors[row / args.rows_per_factor] : T(1);
    across(dim, [&](int64_t j, auto lanes) {
      const V normed = (get(x + j, lanes) - mean) * rstd,
              g = get(dout + j, lanes) * get(weight + j, lanes);
      V gradient = rstd * (g - shift - normed * along);
      if (dsum) gradient += get(dsum + j, lanes);
      put(dx + j, gradient, lanes);
      if (dupdate) put(dupdate + j, factor * gradient, lanes);
    });
  }
};

}  // namespace
