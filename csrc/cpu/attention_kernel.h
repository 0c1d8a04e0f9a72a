// Softmax attention on CPU, for heads that fit the second-level cache; included once per
// instruction set.
//
// A work item is one head of one image. Its operands are packed into rows without gaps, padded with
// zeros to whole vectors and tiles. A block of queries at a time is multiplied with all keys; its
// weights stay in the first-level cache until they have met the values. Backward computes the
// weights again.
#pragma once

#include "gemm_kernel.h"

namespace {

using namespace vmb;

template <class T, int W>
struct Attention {
  using V = Vec<T, W>;
  using Gemm = ::Gemm<T, W>;
  static constexpr int kRows = Gemm::kRows;
  // Queries of a block.
  static constexpr int64_t kQueries = 8 * kRows;

  static int64_t whole(int64_t count, int64_t of) { return (count + of - 1) / of * of; }

  // Scratch of one work item.
  struct Workspace {
    int64_t width, keys;  // of a row of a head, and of a row of weights
    T *q, *k, *v, *dout;  // (length, width); q is scaled
    T *k_t, *v_t;         // (width, keys)
    T *dk, *dv;           // (length, width)
    T *weights, *dweights;  // (block, keys)
    T* rows;              // (block, width): a block of the output, or of q's gradient
    char* end;

    Workspace(void* memory, const AttentionSizes& size, bool backward)
        : width(whole(size.width, W)), keys(whole(whole(size.length, kRows), W)) {
      T* next = static_cast<T*>(memory);
      const int64_t tokens = whole(size.length, kQueries) * width, transposed = width * keys;
      const auto take = [&next](int64_t count) {
        T* const taken = next;
        next += whole(count, 64 / sizeof(T));
        return taken;
      };
      q = take(tokens), v = take(tokens), k_t = take(transposed);
      weights = take(kQueries * keys), rows = take(kQueries * width);
      if (backward) {
        for (T** matrix : {&k, &dout, &dk, &dv}) *matrix = take(tokens);
        v_t = take(transposed), dweights = take(kQueries * keys);
      }
      end = reinterpret_cast<char*>(next);
    }
  };

  static int64_t workspace(const AttentionSizes& size, bool backward) {
    return Workspace(nullptr, size, backward).end - static_cast<char*>(nullptr);
  }

  // c = a b, or c += a b, for a (rows, inner) in any strides, b (inner, columns) and c (rows,
  // columns) in rows of columns. rows is a multiple of kRows, columns of W.
  static void multiply(int64_t rows, int64_t columns, int64_t inner, const T* a, int64_t a_row,
                       int64_t a_step, const T* b, T* c, bool add = false) {
    for (int64_t j = 0; j < columns; j += Gemm::kPanel)
      for (int64_t i = 0; i < rows; i += kRows) {
        T* const to = c + i * columns + j;
        Gemm::for_vectors((columns - j) / W, [&](auto vectors) {
          Gemm::template tile<kRows, vectors>(inner, a + i * a_row, a_row, a_step, b + j, columns,
                                              add ? to : nullptr, columns, to, columns, W);
        });
      }
  }

  // Rows of a head, (length, size.width) `apart` values from one to the next, without gaps.
  static void pack(T* rows, const AttentionSizes& size, const T* from, int64_t apart, T scale) {
    const int64_t width = whole(size.width, W);
    for (int64_t t = 0; t < size.length; ++t)
      for (int64_t j = 0; j < width; j += W)
        store<V>(rows + t * width + j, scale * Gemm::some(from + t * apart + j, size.width - j));
    for (int64_t i = size.length * width; i < whole(size.length, kQueries) * width; i += W)
      store<V>(rows + i, V{});
  }

  static void unpack(const T* rows, int64_t count, int64_t width, T* to, int64_t apart, T scale) {
    for (int64_t t = 0; t < count; ++t)
      for (int64_t j = 0; j < width; j += W) {
        const V v = scale * load<V>(rows + t * whole(width, W) + j);
        if (width - j >= W)
          store<V>(to + t * apart + j, v);
        else
          store_first<V>(to + t * apart + j, v, static_cast<int>(width - j));
      }
  }

  // The rows of a head as columns: (width, keys).
  static void pack_transposed(T* columns, int64_t keys, const AttentionSizes& size, const T* from,
                              int64_t apart) {
    const int64_t width = whole(size.width, W);
    for (int64_t first = 0; first < keys; first += W)
      for (int64_t j = 0; j < width; j += W) {
        V block[W];
        for (int t = 0; t < W; ++t)
          block[t] = first + t < size.length
                         ? Gemm::some(from + (first + t) * apart + j, size.width - j)
                         : V{};
        transpose<W / 2, T, W>(block);
        for (int c = 0; c < W; ++c) store<V>(columns + (j + c) * keys + first, block[c]);
      }
  }

  // Where the matrices of a work item are.
  struct Item {
    int64_t token, row;      // values from a token to the next in qkv, and in the output
    int64_t q, k, v, out, lse;

    Item(const AttentionSizes& size, int64_t index) {
      const int64_t image = index / size.heads, head = index % size.heads,
                    all = size.heads * size.width;
      token = 3 * all, row = all;
      q = image * size.length * token + head * size.width, k = q + all, v = k + all;
      out = image * size.length * row + head * size.width;
      lse = index * size.length;
    }
  };

  // Calls f(first, count, rows) for blocks of `count` queries, `rows` with the padding.
  template <class F>
  static void for_blocks(int64_t length, const F& f) {
    for (int64_t first = 0; first < length; first += kQueries) {
      const int64_t count = length - first < kQueries ? length - first : kQueries;
      f(first, count, whole(count, kRows));
    }
  }

  static void forward(const AttentionForwardArgs<T>& args, int64_t begin, int64_t end,
                      void* memory) {
    const AttentionSizes& size = args.size;
    const Workspace w(memory, size, /*backward=*/false);
    for (int64_t index = begin; index < end; ++index) {
      const Item at(size, index);
      pack(w.q, size, args.qkv + at.q, at.token, args.scale);
      pack(w.v, size, args.qkv + at.v, at.token, T(1));
      pack_transposed(w.k_t, w.keys, size, args.qkv + at.k, at.token);
      for_blocks(size.length, [&](int64_t first, int64_t count, int64_t rows) {
        multiply(rows, w.keys, w.width, w.q + first * w.width, w.width, 1, w.k_t, w.weights);
        for (int64_t i = 0; i < rows; ++i) {
          const T lse = softmax(w.weights + i * w.keys, size.length);
          if (args.lse && i < count) args.lse[at.lse + first + i] = lse;
        }
        multiply(rows, w.width, size.length, w.weights, w.keys, 1, w.v, w.rows);
        unpack(w.rows, count, size.width, args.out + at.out + first * at.row, at.row, T(1));
      });
    }
  }

  // The softmax of a row, in place, with zeros in its padding. Returns the logarithm of the sum of
  // the exponentials.
  static T softmax(T* row, int64_t length) {
    V largest = splat<V>(row[0]);
    int64_t j = 0;
    for (; j + W <= length; j += W) largest = larger(largest, load<V>(row + j));
    T bound = row[0];
    for (int i = 0; i < W; ++i) bound = larger(bound, largest[i]);
    for (; j < length; ++j) bound = larger(bound, row[j]);
    const T sum = exponentials(row, length, bound);
    const T inverse = T(1) / sum;
    for (j = 0; j < length; j += W) store<V>(row + j, load<V>(row + j) * inverse);
    return bound + log_of(sum);
  }

  // NaN if one of them is.
  template <class X>
  static X larger(X a, X b) {
    return b > a || b != b ? b : a;
  }

  static T log_of(T x) {
    if constexpr (sizeof(T) == 8)
      return __builtin_log(x);
    else
      return __builtin_logf(x);
  }

  // exp(row - shift) in place, zeros in its padding. Returns the sum.
  static T exponentials(T* row, int64_t length, T shift) {
    V sum{};
    for (int64_t j = 0; j < length; j += W) {
      V e = exp_of<V>(load<V>(row + j) - shift);
      if (length - j < W)
        for (int64_t i = length - j; i < W; ++i) e[i] = 0;
      store<V>(row + j, e);
      sum += e;
    }
    return lane_sum<V>(sum);
  }

  static void backward(const AttentionBackwardArgs<T>& args, int64_t begin, int64_t end,
                       void* memory) {
    const AttentionSizes& size = args.size;
    const Workspace w(memory, size, /*backward=*/true);
    for (int64_t index = begin; index < end; ++index) {
      const Item at(size, index);
      pack(w.q, size, args.qkv + at.q, at.token, args.scale);
      pack(w.k, size, args.qkv + at.k, at.token, T(1));
      pack(w.dout, size, args.dout + at.out, at.row, T(1));
      pack_transposed(w.k_t, w.keys, size, args.qkv + at.k, at.token);
      pack_transposed(w.v_t, w.keys, size, args.qkv + at.v, at.token);
      for_blocks(size.length, [&](int64_t first, int64_t count, int64_t rows) {
        backward_block(args, w, at, first, count, rows);
      });
      unpack(w.dk, size.length, size.width, args.dqkv + at.k, at.token, T(1));
      unpack(w.dv, size.length, size.width, args.dqkv + at.v, at.token, T(1));
    }
  }

  static void backward_block(const AttentionBackwardArgs<T>& args, const Workspace& w,
                             const Item& at, int64_t first, int64_t count, int64_t rows) {
    const int64_t length = args.size.length, tokens = whole(length, kRows);
    const T *q = w.q + first * w.width, *dout = w.dout + first * w.width;
    multiply(rows, w.keys, w.width, q, w.width, 1, w.k_t, w.weights);
    for (int64_t i = 0; i < rows; ++i)
      exponentials(w.weights + i * w.keys, length,
                   i < count ? args.lse[at.lse + first + i] : T(0));
    multiply(rows, w.keys, w.width, dout, w.width, 1, w.v_t, w.dweights);
    multiply(tokens, w.width, rows, w.weights, 1, w.keys, dout, w.dv, /*add=*/first > 0);
    for (int64_t i = 0; i < count; ++i) {
      const T* const out = args.out + at.out + (first + i) * at.row;
      const T mean = dot(dout + i * w.width, out, args.size.width);
      T *p = w.weights + i * w.keys, *dp = w.dweights + i * w.keys;
      for (int64_t j = 0; j < w.keys; j += W)
        store<V>(dp + j, load<V>(p + j) * (load<V>(dp + j) - mean));
    }
    multiply(rows, w.width, length, w.dweights, w.keys, 1, w.k, w.rows);
    unpack(w.rows, count, args.size.width, args.dqkv + at.q + first * at.token, at.token,
           args.scale);
    multiply(tokens, w.width, rows, w.dweights, 1, w.keys, q, w.dk, /*add=*/first > 0);
  }

  static T dot(const T* a, const T* b, int64_t count) {
    V sum{};
    for (int64_t j = 0; j < count; j += W) sum += Gemm::some(a + j, count - j) * Gemm::some(b + j, count - j);
    return lane_sum<V>(sum);
  }
};

}  // namespace
