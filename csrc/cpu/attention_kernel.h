// Multi-head self-attention (arXiv 1706.03762) on CPU, from the output of a qkv projection, and its
// gradient; included once per instruction set.
//
// A work item is one image and one head. Its keys and values are packed, and then a block of
// queries at a time has its scores with all keys, so nothing of size (length, length) exists.
// Backward computes the scores again, and keeps nothing of forward. Every product is made of tiles
// of kRows rows and kVectors vectors, which stay in registers while their sum grows.
#pragma once

#include "rows.h"

namespace {

template <class T, int W>
struct Attention {
  using V = Vec<T, W>;
  using Rows = ::Rows<T, W>;
  static constexpr int kRows = 6, kVectors = W == 16 ? 4 : 2;
  static constexpr int64_t kPanel = kVectors * W, kBlock = 4 * kRows;

  static int64_t rounded(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

  // Scratch of one work item; sizes in scalars. Lanes and rows beyond the last are zeros or unused.
  struct Workspace {
    int64_t width;         // of a head, in full vectors
    int64_t score_stride;  // of a query's scores: an odd number of vectors, so that rows spread
                           // over the sets of the cache
    T *keys, *values;      // (panel, width, kPanel): transposed
    T* rows;               // (length, width): values in forward, keys in backward
    T *dkeys, *dvalues;    // (length, width)
    T *queries, *douts, *outs;  // (query, width)
    T *scores, *dscores;        // (query, score_stride)
    T* end;

    Workspace(void* memory, const AttentionSizes& size) {
      width = rounded(size.dim, W);
      score_stride = (rounded(size.length, W) / W | 1) * W;
      T* p = static_cast<T*>(memory);
      auto take = [&p](int64_t count) {
        T* q = p;
        p += rounded(count, 64);
        return q;
      };
      const int64_t panels = panels_of(size).count * kPanel * width,
                    of_rows = rounded(size.length, kRows) * width;
      for (T** each : {&keys, &values}) *each = take(panels);
      for (T** each : {&rows, &dkeys, &dvalues}) *each = take(of_rows);
      for (T** each : {&queries, &douts, &outs}) *each = take(kBlock * width);
      // The last tile of rows reads beyond the last score.
      for (T** each : {&scores, &dscores}) *each = take(kBlock * score_stride + kRows);
      end = p;
    }
  };

  static int64_t workspace(const AttentionSizes& size) {
    return reinterpret_cast<char*>(Workspace(nullptr, size).end) - static_cast<char*>(nullptr);
  }

  // A block of queries.
  struct Block {
    int64_t first, count;
    Block(const AttentionSizes& size, int64_t first)
        : first(first), count(size.length - first < kBlock ? size.length - first : kBlock) {}
    int64_t padded() const { return rounded(count, kRows); }
  };

  // A tile of out (+)= a b: `count` terms, b's rows `b_stride` apart. a's rows are `a_stride`
  // apart, or its columns if it is transposed.
  template <int C, bool Transposed>
  static void tile(T* out, int64_t out_stride, const T* a, int64_t a_stride, const T* b,
                   int64_t b_stride, int64_t count, bool add) {
    V sums[kRows][C];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c)
        sums[r][c] = add ? load<V>(out + r * out_stride + c * W) : V{};
    for (int64_t k = 0; k < count; ++k, b += b_stride) {
      V row[C];
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) row[c] = load<V>(b + c * W);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const V factor = splat<V>(Transposed ? a[k * a_stride + r] : a[r * a_stride + k]);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) sums[r][c] += factor * row[c];
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) store<V>(out + r * out_stride + c * W, sums[r][c]);
  }

  // Vectors side by side as panels of at most kVectors, and of nearly equal width: a tile of one
  // vector would wait for its own sums.
  struct Panels {
    int64_t vectors, count;
    explicit Panels(int64_t vectors)
        : vectors(vectors), count((vectors + kVectors - 1) / kVectors) {}
    int64_t first(int64_t panel) const { return panel * vectors / count; }
    int64_t width(int64_t panel) const { return first(panel + 1) - first(panel); }
  };

  // As `tile`, for 1 to kVectors vectors.
  template <bool Transposed>
  static void tile_of(int64_t vectors, T* out, int64_t out_stride, const T* a, int64_t a_stride,
                      const T* b, int64_t b_stride, int64_t count, bool add) {
    const auto compute = vectors == 1   ? tile<1, Transposed>
                         : vectors == 2 ? tile<2, Transposed>
                         : vectors == 3 ? tile<3, Transposed>
                                        : tile<kVectors, Transposed>;
    compute(out, out_stride, a, a_stride, b, b_stride, count, add);
  }

  // kRows rows of a product.
  template <bool Transposed>
  static void rows_of_product(T* out, int64_t out_stride, const T* a, int64_t a_stride, const T* b,
                              int64_t b_stride, int64_t count, int64_t vectors, bool add) {
    const Panels panels(vectors);
    for (int64_t p = 0; p < panels.count; ++p)
      tile_of<Transposed>(panels.width(p), out + panels.first(p) * W, out_stride, a, a_stride,
                          b + panels.first(p) * W, b_stride, count, add);
  }

  // Copies rows of a head, times a factor, and adds rows of zeros.
  static void pack_rows(T* rows, const T* from, int64_t stride, int64_t count, int64_t padded,
                        const AttentionSizes& size, T factor) {
    const int64_t width = rounded(size.dim, W);
    for (int64_t i = 0; i < count; ++i)
      across<W>(0, size.dim, [&](int64_t j, auto lanes) {
        store<V>(rows + i * width + j, get<V>(from + i * stride + j, lanes) * factor);
      });
    for (int64_t j = count * width; j < padded * width; j += W) store<V>(rows + j, V{});
  }

  // Copies rows to a head, times a factor.
  static void unpack_rows(const T* rows, T* to, int64_t stride, int64_t count,
                          const AttentionSizes& size, const T factor) {
    const int64_t width = rounded(size.dim, W);
    for (int64_t i = 0; i < count; ++i)
      across<W>(0, size.dim, [&](int64_t j, auto lanes) {
        put<V>(to + i * stride + j, load<V>(rows + i * width + j) * factor, lanes);
      });
  }

  static void pack_transposed(T* to, const T* from, int64_t stride, const AttentionSizes& size) {
    const View<const T> view{from, 0, stride, 1};
    const Panels panels = panels_of(size);
    for (int64_t p = 0; p < panels.count; ++p, to += size.dim * kPanel)
      for (int64_t v = 0; v < panels.width(p); ++v) {
        const int64_t first = (panels.first(p) + v) * W, left = size.length - first;
        Rows::pack(reinterpret_cast<V*>(to) + v, view, 0, first,
                   static_cast<int>(left < W ? left : W), 0, size.dim, kVectors);
      }
  }

  static Panels panels_of(const AttentionSizes& size) {
    return Panels(rounded(size.length, W) / W);
  }

  // The products of a block's rows with all keys, or values.
  static void products(T* out, const T* rows, const T* b, const Workspace& w,
                       const AttentionSizes& size, const Block& block) {
    const Panels panels = panels_of(size);
    for (int64_t p = 0; p < panels.count; ++p, b += size.dim * kPanel)
      for (int64_t r = 0; r < block.padded(); r += kRows)
        tile_of<false>(panels.width(p), out + r * w.score_stride + panels.first(p) * W,
                       w.score_stride, rows + r * w.width, w.width, b, kPanel, size.dim, false);
  }

  // Sums over all keys: factors (query, length) times rows (length, width).
  static void sums_over_keys(T* out, const T* factors, const T* rows, const Workspace& w,
                             const AttentionSizes& size, const Block& block) {
    for (int64_t r = 0; r < block.padded(); r += kRows)
      rows_of_product<false>(out + r * w.width, w.width, factors + r * w.score_stride,
                             w.score_stride, rows, w.width, size.length, w.width / W, false);
  }

  // Adds sums over a block's queries: factors (query, length) transposed times rows (query, width).
  static void sums_over_queries(T* out, const T* factors, const T* rows, const Workspace& w,
                                const AttentionSizes& size, const Block& block) {
    for (int64_t r = 0; r < size.length; r += kRows)
      rows_of_product<true>(out + r * w.width, w.width, factors + r, w.score_stride, rows, w.width,
                            block.padded(), w.width / W, block.first > 0);
  }

  // exp(x - max(x)) of a row of scores, 0 behind the last. Returns 1 / its sum.
  static T exponentials(T* row, int64_t length) {
    const int64_t end = rounded(length, W);
    for (int64_t j = length; j < end; ++j) row[j] = -__builtin_inff();
    V largest = load<V>(row);
    for (int64_t j = W; j < end; j += W) {
      const V x = load<V>(row + j);
      largest = x > largest ? x : largest;
    }
    const T shift = lane_max<V>(largest);
    V sum{};
    Rows::template in_groups<4>(end / W, [&](auto count, int64_t v) {
      V x[count];
      for (int i = 0; i < count; ++i) x[i] = load<V>(row + (v + i) * W) - shift;
      exps<count, V>(x, x);
      for (int i = 0; i < count; ++i) {
        store<V>(row + (v + i) * W, x[i]);
        sum += x[i];
      }
    });
    return T(1) / lane_sum<V>(sum);
  }

  // Where a head's queries begin in qkv (batch, length, 3, heads, dim).
  static int64_t head_of(const AttentionSizes& size, int64_t index) {
    return index / size.heads * size.length * size.row() + index % size.heads * size.dim;
  }
  static int64_t out_of(const AttentionSizes& size, int64_t index) {
    return index / size.heads * size.length * size.channels() + index % size.heads * size.dim;
  }

  static void forward(const AttentionForwardArgs<T>& args, int64_t begin, int64_t end,
                      void* memory) {
    const AttentionSizes& size = args.size;
    const Workspace w(memory, size);
    const int64_t row = size.row(), channels = size.channels();
    for (int64_t index = begin; index < end; ++index) {
      const T* const q = args.qkv + head_of(size, index);
      T* const out = args.out + out_of(size, index);
      pack_transposed(w.keys, q + channels, row, size);
      pack_rows(w.rows, q + 2 * channels, row, size.length, size.length, size, T(1));
      for (int64_t first = 0; first < size.length; first += kBlock) {
        const Block block(size, first);
        pack_rows(w.queries, q + first * row, row, block.count, block.padded(), size, args.scale);
        products(w.scores, w.queries, w.keys, w, size, block);
        T factors[kBlock];
        for (int64_t r = 0; r < block.padded(); ++r)
          factors[r] = exponentials(w.scores + r * w.score_stride, size.length);
        sums_over_keys(w.outs, w.scores, w.rows, w, size, block);
        for (int64_t r = 0; r < block.count; ++r)
          unpack_rows(w.outs + r * w.width, out + (first + r) * channels, channels, 1, size,
                      factors[r]);
      }
    }
  }

  // With P the attention and dP the gradient of P, that of the scores is P (dP - sum(P dP)).
  static void softmax_gradient(T* scores, T* dscores, int64_t length) {
    const T factor = exponentials(scores, length);
    V total{};
    for (int64_t j = 0; j < length; j += W) {
      const V p = load<V>(scores + j) * factor;
      store<V>(scores + j, p);
      total += p * load<V>(dscores + j);
    }
    const T sum = lane_sum<V>(total);
    for (int64_t j = 0; j < length; j += W)
      store<V>(dscores + j, load<V>(scores + j) * (load<V>(dscores + j) - sum));
  }

  static void backward(const AttentionBackwardArgs<T>& args, int64_t begin, int64_t end,
                       void* memory) {
    const AttentionSizes& size = args.size;
    const Workspace w(memory, size);
    const int64_t row = size.row(), channels = size.channels(), length = size.length;
    for (int64_t index = begin; index < end; ++index) {
      const T* const q = args.qkv + head_of(size, index);
      const T* const dout = args.dout + out_of(size, index);
      T* const dq = args.dqkv + head_of(size, index);
      pack_transposed(w.keys, q + channels, row, size);
      pack_transposed(w.values, q + 2 * channels, row, size);
      pack_rows(w.rows, q + channels, row, length, length, size, T(1));
      for (int64_t first = 0; first < length; first += kBlock) {
        const Block block(size, first);
        pack_rows(w.queries, q + first * row, row, block.count, block.padded(), size, args.scale);
        pack_rows(w.douts, dout + first * channels, channels, block.count, block.padded(), size,
                  T(1));
        products(w.scores, w.queries, w.keys, w, size, block);
        products(w.dscores, w.douts, w.values, w, size, block);
        for (int64_t r = 0; r < block.padded(); ++r)
          softmax_gradient(w.scores + r * w.score_stride, w.dscores + r * w.score_stride, length);
        sums_over_queries(w.dvalues, w.scores, w.douts, w, size, block);
        sums_over_queries(w.dkeys, w.dscores, w.queries, w, size, block);
        sums_over_keys(w.outs, w.dscores, w.rows, w, size, block);
        unpack_rows(w.outs, dq + first * row, row, block.count, size, args.scale);
      }
      unpack_rows(w.dkeys, dq + channels, row, length, size, T(1));
      unpack_rows(w.dvalues, dq + 2 * channels, row, length, size, T(1));
    }
  }
};

}  // namespace
