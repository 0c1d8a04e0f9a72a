// Rows of W channels, and their loads and stores, for scan, convolution and attention.
#pragma once

#include "kernels.h"
#include "transpose.h"
#include "vec_math.h"

namespace {

using namespace vmb;

template <class T, int W>
struct Rows {
  using V = Vec<T, W>;
  static constexpr int64_t kLine = 64;  // bytes of a cache line
  // Vectors in a cache line. They are packed together: where channels are adjacent, the line would
  // be evicted before the second vector needs it.
  static constexpr int kVectors = sizeof(V) < kLine ? kLine / sizeof(V) : 1;

  // The position of a work item.
  struct Item {
    int64_t batch, first_channel, blocks;
    Item(const ScanSizes& size, int64_t index)
        : batch(index / size.groups()), first_channel(index % size.groups() * kGroup) {
      const int64_t channels =
          size.dim - first_channel < kGroup ? size.dim - first_channel : kGroup;
      blocks = (channels + W - 1) / W;
    }
  };

  static int lanes_of(const ScanSizes& size, int64_t channel) {
    return static_cast<int>(size.dim - channel < W ? size.dim - channel : W);
  }

  // Rows of W channels from any layout, `apart` vectors from one to the next; missing channels
  // become zeros. Steps that are adjacent in memory, in either direction, are transposed in
  // registers, W at a time.
  static void pack(V* rows, const View<const T>& view, int64_t b, int64_t channel, int lanes,
                   int64_t step, int64_t steps, int64_t apart = 1) {
    const T* source = view.at(b, channel, step);
    if (view.row == 1) {
      // Strides in variables of their own: the compiler would load them again after each store.
      const int64_t stride = view.step;
      for (int64_t t = 0; t < steps; ++t, rows += apart, source += stride)
        *rows = lanes == W ? load<V>(source) : load_first<V>(source, lanes);
    } else if (view.step == 1 || view.step == -1) {
      for (int64_t first = 0; first < steps; first += W) {
        const int count = static_cast<int>(steps - first < W ? steps - first : W);
        const T* lowest = source + (view.step > 0 ? first : 1 - first - count);
        V block[W];
        if (lanes == W && count == W)
          for (int c = 0; c < W; ++c) block[c] = load<V>(lowest + c * view.row);
        else
          for (int c = 0; c < W; ++c)
            block[c] = c < lanes ? load_first<V>(lowest + c * view.row, count) : V{};
        transpose<W / 2, T, W>(block);
        if (count == W && view.step > 0)
          for (int t = 0; t < W; ++t) rows[(first + t) * apart] = block[t];
        else
          for (int t = 0; t < count; ++t)
            rows[(first + t) * apart] = block[view.step > 0 ? t : count - 1 - t];
      }
    } else {
      for (int64_t t = 0; t < steps; ++t) {
        rows[t * apart] = V{};
        for (int c = 0; c < lanes; ++c) rows[t * apart][c] = source[c * view.row + t * view.step];
      }
    }
  }

  static void unpack(const V* rows, const View<T>& view, int64_t b, int64_t channel, int lanes,
                     int64_t step, int64_t steps) {
    T* target = view.at(b, channel, step);
    if (view.row == 1) {
      const int64_t stride = view.step;
      for (int64_t t = 0; t < steps; ++t, ++rows, target += stride)
        if (lanes == W)
          store<V>(target, *rows);
        else
          store_first<V>(target, *rows, lanes);
    } else if (view.step == 1 || view.step == -1) {
      for (int64_t first = 0; first < steps; first += W) {
        const int count = static_cast<int>(steps - first < W ? steps - first : W);
        T* lowest = target + (view.step > 0 ? first : 1 - first - count);
        V block[W];
        if (count == W && view.step > 0)
          for (int t = 0; t < W; ++t) block[t] = rows[first + t];
        else
          for (int t = 0; t < W; ++t)
            block[t] = t < count ? rows[first + (view.step > 0 ? t : count - 1 - t)] : V{};
        transpose<W / 2, T, W>(block);
        if (lanes == W && count == W)
          for (int c = 0; c < W; ++c) store<V>(lowest + c * view.row, block[c]);
        else
          for (int c = 0; c < lanes; ++c) store_first<V>(lowest + c * view.row, block[c], count);
      }
    } else {
      for (int64_t t = 0; t < steps; ++t)
        for (int c = 0; c < lanes; ++c) target[c * view.row + t * view.step] = rows[t][c];
    }
  }

  // A unit of packing: up to kVectors vectors of channels, from the block-th on, and a strip of
  // steps.
  struct Strip {
    const Item& item;
    int64_t block, step, steps;
    Strip(const ScanSizes& size, const Item& item, int64_t block, int64_t step)
        : item(item),
          block(block),
          step(step),
          steps(size.steps(step)) {}
    int vectors() const {
      return static_cast<int>(item.blocks - block < kVectors ? item.blocks - block : kVectors);
    }
    int64_t channel(int v = 0) const { return item.first_channel + (block + v) * W; }
    int64_t channels(const ScanSizes& size) const {
      return size.dim - channel() < vectors() * W ? size.dim - channel() : vectors() * W;
    }
    // The strip of the next channels, or of the first channels `ahead` steps later.
    Strip next(const ScanSizes& size, int64_t ahead) const {
      return block + kVectors < item.blocks ? Strip(size, item, block + kVectors, step)
                                            : Strip(size, item, 0, step + ahead);
    }
  };

  // Whether the rows of a strip are used where they are: one vector of channels, adjacent in
  // memory.
  template <class U>
  static bool in_place(const View<U>& view, const ScanSizes& size, const Strip& strip) {
    return kVectors == 1 && view.row == 1 && strip.channels(size) == W;
  }

  // The rows of a vector, in memory or packed.
  template <class U>
  struct RowsOf {
    U* first;
    int64_t stride;
    VMB_INLINE V operator[](int64_t t) const { return load<V>(first + t * stride); }
    VMB_INLINE void put(int64_t t, V value) const { store<V>(first + t * stride, value); }
  };

  // The rows of the only vector of a strip if they are in place, else those that are packed.
  template <class U>
  static RowsOf<U> rows_of(const View<U>& view, const ScanSizes& size, const Strip& strip,
                           V* packed) {
    if (in_place(view, size, strip))
      return {view.at(strip.item.batch, strip.channel(), strip.step), view.step};
    return {reinterpret_cast<T*>(packed), W};
  }

  // Packs one vector of a strip, unless it is in place.
  static void pack_vector(V* rows, const View<const T>& view, const ScanSizes& size,
                          const Strip& strip, int v) {
    const int64_t channel = strip.channel(v);
    if (!in_place(view, size, strip))
      pack(rows, view, strip.item.batch, channel, lanes_of(size, channel), strip.step, strip.steps);
  }

  static void unpack_vector(const V* rows, const View<T>& view, const ScanSizes& size,
                            const Strip& strip, int v) {
    const int64_t channel = strip.channel(v);
    if (!in_place(view, size, strip))
      unpack(rows, view, strip.item.batch, channel, lanes_of(size, channel), strip.step,
             strip.steps);
  }

  // Packs a strip, unless it is in place.
  static void pack_strip(V* rows, const View<const T>& view, const ScanSizes& size,
                         const Strip& strip) {
    if (!view || in_place(view, size, strip)) return;
    const T* source = view.at(strip.item.batch, strip.channel(), strip.step);
    const int64_t steps = strip.steps, stride = view.step;
    if (view.row == 1 && strip.channels(size) == kVectors * W)
      for (int64_t t = 0; t < steps; ++t, ++rows, source += stride)
        for (int v = 0; v < kVectors; ++v) rows[v * kMaxStrip] = load<V>(source + v * W);
    else
      for (int v = 0; v < strip.vectors(); ++v)
        pack_vector(rows + v * kMaxStrip, view, size, strip, v);
  }

  static void unpack_strip(const V* rows, const View<T>& view, const ScanSizes& size,
                           const Strip& strip) {
    if (!view || in_place(view, size, strip)) return;
    T* target = view.at(strip.item.batch, strip.channel(), strip.step);
    const int64_t steps = strip.steps, stride = view.step;
    if (view.row == 1 && strip.channels(size) == kVectors * W)
      for (int64_t t = 0; t < steps; ++t, ++rows, target += stride)
        for (int v = 0; v < kVectors; ++v) store<V>(target + v * W, rows[v * kMaxStrip]);
    else
      for (int v = 0; v < strip.vectors(); ++v)
        unpack_vector(rows + v * kMaxStrip, view, size, strip, v);
  }

  // The memory of a strip in one tensor, to be prefetched: its lines are a row apart, so the
  // hardware does not predict them, and it can wait for about twenty lines at a time only. So each
  // step of a pass over the strip before takes one line.
  struct Ahead {
    const T *cached, *line;  // one in the cache, for when no other is left; the next one
    int64_t to_next = 0, to_other = 0;  // from one line to the next, in turn
    int64_t lines = 0;

    explicit Ahead(const T* cached) : cached(cached), line(cached) {}

    template <class U>
    Ahead(const View<U>& view, const ScanSizes& size, const Strip& strip, const T* cached)
        : Ahead(cached) {
      constexpr int64_t kValues = kLine / sizeof(T);
      if (!view || strip.step < 0 || strip.step >= size.strips() * kStrip) return;
      const T* from = view.at(strip.item.batch, strip.channel(), strip.step);
      if (view.row == 1) {
        line = from, to_next = to_other = view.step, lines = strip.steps;
      } else if (view.step == 1 || view.step == -1) {
        // The steps of a channel are two lines; of a double's four and a longer strip's three, two.
        line = view.step < 0 ? from - strip.steps + 1 : from;
        to_next = kValues, to_other = view.row - kValues;
        lines = 2 * strip.channels(size);
      }
    }

    // Always inlined: GCC considers a function that only prefetches to have no effect, and removes
    // its calls. What is a line long may begin within one.
    [[gnu::always_inline]] void next() {
      __builtin_prefetch(line);
      __builtin_prefetch(line + kLine / sizeof(T) - 1);
      line += to_next;
      const int64_t other = to_other;
      to_other = to_next, to_next = other;
    }

    // Takes the lines that `steps` calls of `next` will not; all of them if there are fewer lines
    // than a strip has steps. The last strip's additional calls take lines beyond.
    [[gnu::always_inline]] void begin(int64_t steps) {
      const int64_t left = lines < steps && lines < kStrip ? 0 : steps;
      for (; lines > left; --lines) next();
      if (left == 0) *this = Ahead(cached);
    }
  };

  static V pack_channels(const T* values, int64_t channel, int lanes) {
    return values ? load_first<V>(values + channel, lanes) : V{};
  }

  // Calls f(count, first) for Count steps at a time and then for each remaining step; count is a
  // compile-time constant.
  template <int Count, class F>
  static void in_groups(int64_t steps, const F& f) {
    int64_t t = 0;
    for (; t + Count <= steps; t += Count) f(std::integral_constant<int, Count>(), t);
    for (; t < steps; ++t) f(std::integral_constant<int, 1>(), t);
  }
};

}  // namespace
