// The selective scan on CPU, vectorised over channels; included once per instruction set.
//
// A work item is one batch index and one group of 64 channels. It walks the sequence in chunks of 32 steps; inside a chunk
// it takes one vector of W channels at a time, and inside that N states at a time, whose states (and in backward their
// gradients) stay in registers over the chunk's steps. Operands are first packed from the caller's layout into rows of W
// channels, so the inner loops see one layout, and channels beyond the last are zeros. See README.md for the arithmetic.
#pragma once

#include "kernels.h"
#include "transpose.h"
#include "vec_math.h"

namespace {

using namespace vmb;

template <class T, int W, int N>
struct Scan {
  using V = Vec<T, W>;
  static constexpr int kBlocks = kGroup / W;
  static constexpr int T_ = kChunk;
  // Gradients of B and C at one step of a tile: vectors that hold, summed over lanes, those of kHalf states' B and then of their C.
  static constexpr int kHalf = W / 2, kSums = N / kHalf;

  static int64_t padded(int64_t state) { return (state + N - 1) / N * N; }

  // Scratch of one work item, carved out of one allocation; sizes in vectors of W or in scalars.
  struct Workspace {
    V *h, *A, *dA;           // (block, state): running state (backward: its gradient), A * log2(e), gradient of A
    V *states, *decay;       // one tile of N states over a chunk: (step + 1, N) and (step, N)
    V *dBC;                  // (step, state / kHalf): gradients of B and C, kHalf of each
    V *dt, *dtu, *u, *y, *dy, *sum_dtu, *sum_dt;  // (step)
    V *z, *dout;             // (step): as packed
    V *slope, *gate;         // (step): of softplus, and sigmoid(z); backward only
    V *dD, *dbias;           // (block)
    T *B, *C;                // (step, state)

    Workspace(void* memory, int64_t state) {
      const int64_t n = padded(state);
      V* p = static_cast<V*>(memory);
      auto take = [&p](int64_t count) { V* q = p; p += count; return q; };
      h = take(kBlocks * n), A = take(kBlocks * n), dA = take(kBlocks * n);
      states = take((T_ + 1) * N), decay = take(T_ * N);
      dBC = take(T_ * (n / kHalf));
      for (V** row : {&dt, &dtu, &u, &y, &dy, &sum_dtu, &sum_dt, &z, &dout, &slope, &gate}) *row = take(T_);
      dD = take(kBlocks), dbias = take(kBlocks);
      B = reinterpret_cast<T*>(p);
      C = B + T_ * n;
      end = reinterpret_cast<char*>(C + T_ * n);
    }
    char* end;
  };

  static int64_t workspace(const ScanSizes& size) {
    return Workspace(nullptr, size.state).end - static_cast<char*>(nullptr);
  }

  // Where a work item lies.
  struct Item {
    int64_t batch, group, first_channel, blocks;
    Item(const ScanSizes& size, int64_t index) : batch(index / size.groups()), group(index % size.groups()), first_channel(group * kGroup) {
      const int64_t channels = size.dim - first_channel < kGroup ? size.dim - first_channel : kGroup;
      blocks = (channels + W - 1) / W;
    }
  };

  static int lanes_of(const ScanSizes& size, int64_t channel) {
    return static_cast<int>(size.dim - channel < W ? size.dim - channel : W);
  }

  // Rows of W channels from any layout; missing channels become zeros. Steps that are adjacent in memory, in either direction, are
  // transposed in registers, W at a time.
  static void pack(V* rows, const View<const T>& view, int64_t b, int64_t channel, int lanes, int64_t step, int64_t steps) {
    const T* source = view.at(b, channel, step);
    if (view.row == 1) {
      for (int64_t t = 0; t < steps; ++t) rows[t] = lanes == W ? load<V>(source + t * view.step) : load_first<V>(source + t * view.step, lanes);
    } else if (view.step == 1 || view.step == -1) {
      for (int64_t first = 0; first < steps; first += W) {
        const int count = static_cast<int>(steps - first < W ? steps - first : W);
        const T* lowest = source + (view.step > 0 ? first : 1 - first - count);
        V block[W];
        if (lanes == W && count == W)
          for (int c = 0; c < W; ++c) block[c] = load<V>(lowest + c * view.row);
        else
          for (int c = 0; c < W; ++c) block[c] = c < lanes ? load_first<V>(lowest + c * view.row, count) : V{};
        transpose<W / 2, T, W>(block);
        if (count == W && view.step > 0)
          for (int t = 0; t < W; ++t) rows[first + t] = block[t];
        else
          for (int t = 0; t < count; ++t) rows[first + t] = block[view.step > 0 ? t : count - 1 - t];
      }
    } else {
      for (int64_t t = 0; t < steps; ++t) {
        rows[t] = V{};
        for (int c = 0; c < lanes; ++c) rows[t][c] = source[c * view.row + t * view.step];
      }
    }
  }

  static void unpack(const V* rows, const View<T>& view, int64_t b, int64_t channel, int lanes, int64_t step, int64_t steps) {
    T* target = view.at(b, channel, step);
    if (view.row == 1) {
      for (int64_t t = 0; t < steps; ++t)
        if (lanes == W)
          store<V>(target + t * view.step, rows[t]);
        else
          store_first<V>(target + t * view.step, rows[t], lanes);
    } else if (view.step == 1 || view.step == -1) {
      for (int64_t first = 0; first < steps; first += W) {
        const int count = static_cast<int>(steps - first < W ? steps - first : W);
        T* lowest = target + (view.step > 0 ? first : 1 - first - count);
        V block[W];
        if (count == W && view.step > 0)
          for (int t = 0; t < W; ++t) block[t] = rows[first + t];
        else
          for (int t = 0; t < W; ++t) block[t] = t < count ? rows[first + (view.step > 0 ? t : count - 1 - t)] : V{};
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

  // Starts fetching W channels of a chunk, to read or (Write) to overwrite them: its lines are too far apart for the processor to
  // foresee. Steps outside the sequence are no chunk.
  template <bool Write, class U>
  static void prefetch(const View<U>& view, const ScanSizes& size, const Item& item, int64_t block, int64_t step) {
    if (!view || step < 0 || step >= size.length) return;
    const int64_t steps = size.length - step < T_ ? size.length - step : T_;
    const int64_t channel = item.first_channel + block * W;
    const T* source = view.at(item.batch, channel, step);
    if (view.row == 1) {
      for (int64_t t = 0; t < steps; ++t) __builtin_prefetch(source + t * view.step, Write);
    } else if (view.step == 1 || view.step == -1) {
      constexpr int64_t kLine = 64 / sizeof(T);
      for (int c = 0; c < lanes_of(size, channel); ++c) {
        for (int64_t t = 0; t < steps; t += kLine) __builtin_prefetch(source + c * view.row + t * view.step, Write);
        __builtin_prefetch(source + c * view.row + (steps - 1) * view.step, Write);
      }
    }
  }

  static void prefetch_forward(const ScanForward<T>& args, const Item& item, int64_t block, int64_t step) {
    for (const auto* view : {&args.in.u, &args.in.delta, &args.in.z}) prefetch<false>(*view, args.in.size, item, block, step);
    prefetch<true>(args.out, args.in.size, item, block, step);
  }

  static void prefetch_backward(const ScanBackward<T>& args, const Item& item, int64_t block, int64_t step) {
    for (const auto* view : {&args.in.u, &args.in.delta, &args.in.z, &args.dout}) prefetch<false>(*view, args.in.size, item, block, step);
    for (const auto* view : {&args.du, &args.ddelta, &args.dz}) prefetch<true>(*view, args.in.size, item, block, step);
  }

  // (step, state) from B or C; states beyond the last are zeros.
  static void pack_states(T* rows, const View<const T>& view, int64_t b, int64_t state, int64_t step, int64_t steps) {
    const int64_t n = padded(state);
    for (int64_t t = 0; t < steps; ++t) {
      const T* source = view.at(b, 0, step + t);
      for (int64_t i = 0; i < state; ++i) rows[t * n + i] = source[i * view.row];
      for (int64_t i = state; i < n; ++i) rows[t * n + i] = 0;
    }
  }

  static V pack_channels(const T* values, int64_t channel, int lanes) {
    V v{};
    if (values)
      for (int c = 0; c < lanes; ++c) v[c] = values[channel + c];
    return v;
  }

  static void pack_A(V* rows, const ScanInputs<T>& in, int64_t channel, int lanes) {
    const int64_t n = padded(in.size.state);
    for (int64_t i = 0; i < n; ++i) rows[i] = V{};
    for (int64_t i = 0; i < in.size.state; ++i)
      for (int c = 0; c < lanes; ++c) rows[i][c] = *in.A.at(0, channel + c, i) * static_cast<T>(kLog2e);
  }

  // u, z, dt = softplus(delta + bias) and dt * u for one chunk of W channels; for backward softplus's slope as well.
  template <bool Slope>
  static void pack_inputs(Workspace& w, const ScanInputs<T>& in, const Item& item, int64_t channel, int lanes, int64_t step, int64_t steps) {
    pack(w.u, in.u, item.batch, channel, lanes, step, steps);
    pack(w.dt, in.delta, item.batch, channel, lanes, step, steps);
    if (in.z) pack(w.z, in.z, item.batch, channel, lanes, step, steps);
    const V bias = pack_channels(in.delta_bias, channel, lanes);
    for (int64_t t = 0; t < steps; ++t) {
      const V raw = w.dt[t] + bias;
      w.dt[t] = !in.delta_softplus ? raw : Slope ? softplus<V>(raw, &w.slope[t]) : softplus<V>(raw);
      w.dtu[t] = w.dt[t] * w.u[t];
    }
  }

  static T* checkpoint(T* checkpoints, const ScanSizes& size, const Item& item, int64_t chunk, int64_t block) {
    const int64_t index = ((item.batch * size.groups() + item.group) * size.chunks() + chunk) * size.state * kGroup;
    return checkpoints + index + block * W * size.state;
  }

  static void forward(const ScanForward<T>& args, int64_t begin, int64_t end, void* memory) {
    const ScanInputs<T>& in = args.in;
    const ScanSizes& size = in.size;
    const int64_t n = padded(size.state);
    Workspace w(memory, size.state);
    for (int64_t index = begin; index < end; ++index) {
      const Item item(size, index);
      for (int64_t block = 0; block < item.blocks; ++block) {
        const int64_t channel = item.first_channel + block * W;
        prefetch_forward(args, item, block, 0);
        pack_A(w.A + block * n, in, channel, lanes_of(size, channel));
        for (int64_t i = 0; i < n; ++i) w.h[block * n + i] = V{};
      }
      for (int64_t step = 0; step < size.length; step += T_) {
        const int64_t steps = size.length - step < T_ ? size.length - step : T_;
        pack_states(w.B, in.B, item.batch, size.state, step, steps);
        pack_states(w.C, in.C, item.batch, size.state, step, steps);
        for (int64_t block = 0; block < item.blocks; ++block) {
          const int64_t channel = item.first_channel + block * W;
          const int lanes = lanes_of(size, channel);
          if (args.checkpoints) {
            T* saved = checkpoint(args.checkpoints, size, item, step / T_, block);
            for (int64_t i = 0; i < size.state; ++i) store<V>(saved + i * W, w.h[block * n + i]);
          }
          pack_inputs<false>(w, in, item, channel, lanes, step, steps);
          prefetch_forward(args, item, block, step + T_);
          const V D = pack_channels(in.D, channel, lanes);
          for (int64_t t = 0; t < steps; ++t) w.y[t] = D * w.u[t];
          for (int64_t i = 0; i < n; i += N)
            forward_tile(w.h + block * n + i, w.A + block * n + i, w.B + i, w.C + i, n, w.dt, w.dtu, w.y, steps);
          if (in.z)
            for (int64_t t = 0; t < steps; ++t) w.y[t] *= w.z[t] * sigmoid<V>(w.z[t]);
          unpack(w.y, args.out, item.batch, channel, lanes, step, steps);
        }
      }
    }
  }

  // N states of W channels over one chunk: h = 2^(dt A) h + dt u B, y += C h.
  static void forward_tile(V* carried, const V* A, const T* B, const T* C, int64_t stride, const V* dt, const V* dtu, V* y, int64_t steps) {
    V h[N];
    for (int i = 0; i < N; ++i) h[i] = carried[i];
    for (int64_t t = 0; t < steps; ++t) {
      V even = y[t], odd{};  // two sums: half the latency
      for (int i = 0; i < N; ++i) {
        h[i] = exp2_product<W>(dt[t], A[i]) * h[i] + dtu[t] * B[t * stride + i];
        (i % 2 ? odd : even) += h[i] * C[t * stride + i];
      }
      y[t] = even + odd;
    }
    for (int i = 0; i < N; ++i) carried[i] = h[i];
  }

  // The states of a chunk again, kept with their decays: states[t] is the state before step t.
  static void recompute_tile(const Workspace& w, const V* A, const T* B, int64_t stride, int64_t steps) {
    V h[N];
    for (int i = 0; i < N; ++i) h[i] = w.states[i];
    V *states = w.states + N, *decay = w.decay;
    const V *dt = w.dt, *dtu = w.dtu;
    for (int64_t t = 0; t < steps; ++t)
      for (int i = 0; i < N; ++i) {
        const V e = exp2_product<W>(dt[t], A[i]);
        decay[t * N + i] = e;
        h[i] = e * h[i] + dtu[t] * B[t * stride + i];
        states[t * N + i] = h[i];
      }
  }

  // The same steps backwards. dh is the gradient of the state, carried from later steps.
  static void backward_tile(const Workspace& w, V* carried, V* dA_sum, const V* A, int64_t first, int64_t stride, int64_t steps) {
    static_assert(N % kHalf == 0, "states fill vectors of sums");
    V dh[N], dA[N], *dBC = w.dBC + first / kHalf;
    for (int i = 0; i < N; ++i) dh[i] = carried[i], dA[i] = dA_sum[i];
    for (int64_t t = steps - 1; t >= 0; --t) {
      const T *B = w.B + t * stride + first, *C = w.C + t * stride + first;
      V sums[N];
      const V dy = w.dy[t], dt = w.dt[t], dtu = w.dtu[t];
      V y = w.y[t], sum_dtu = w.sum_dtu[t], sum_dt = w.sum_dt[t];
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) {
        const V after = w.states[(t + 1) * N + i], before = w.states[t * N + i];
        dh[i] += dy * C[i];
        y += after * C[i];
        sum_dtu += dh[i] * B[i];
        sums[i] = add_halves<kHalf>(dh[i] * dtu, dy * after);
        dh[i] *= w.decay[t * N + i];
        const V through = dh[i] * before;  // gradient of dt * A
        sum_dt += through * A[i];
        dA[i] += through * dt;
      }
      w.y[t] = y, w.sum_dtu[t] = sum_dtu, w.sum_dt[t] = sum_dt;
      for (int k = 0; k < kSums; ++k) {
        add_rest<kHalf / 2>(sums + k * kHalf);
        dBC[t * (stride / kHalf) + k] += sums[k * kHalf];
      }
    }
    for (int i = 0; i < N; ++i) carried[i] = dh[i], dA_sum[i] = dA[i];
  }

  static void backward(const ScanBackward<T>& args, int64_t begin, int64_t end, void* memory) {
    const ScanInputs<T>& in = args.in;
    const ScanSizes& size = in.size;
    const int64_t n = padded(size.state);
    Workspace w(memory, size.state);
    for (int64_t index = begin; index < end; ++index) {
      const Item item(size, index);
      for (int64_t block = 0; block < item.blocks; ++block) {
        const int64_t channel = item.first_channel + block * W;
        prefetch_backward(args, item, block, (size.chunks() - 1) * T_);
        pack_A(w.A + block * n, in, channel, lanes_of(size, channel));
        for (int64_t i = 0; i < n; ++i) w.h[block * n + i] = w.dA[block * n + i] = V{};
        w.dD[block] = w.dbias[block] = V{};
      }
      for (int64_t chunk = size.chunks() - 1; chunk >= 0; --chunk) {
        const int64_t step = chunk * T_;
        const int64_t steps = size.length - step < T_ ? size.length - step : T_;
        pack_states(w.B, in.B, item.batch, size.state, step, steps);
        pack_states(w.C, in.C, item.batch, size.state, step, steps);
        for (int64_t i = 0; i < steps * (n / kHalf); ++i) w.dBC[i] = V{};
        for (int64_t block = 0; block < item.blocks; ++block) backward_block(args, w, item, block, chunk, step, steps);
        for (int64_t t = 0; t < steps; ++t)
          for (int64_t i = 0; i < size.state; ++i) {
            const V& sums = w.dBC[t * (n / kHalf) + i / kHalf];
            *args.dB.at(index, i, step + t) = sums[i % kHalf];
            *args.dC.at(index, i, step + t) = sums[kHalf + i % kHalf];
          }
      }
      write_channel_sums(args, w, item);
    }
  }

  static void backward_block(const ScanBackward<T>& args, Workspace& w, const Item& item, int64_t block, int64_t chunk, int64_t step, int64_t steps) {
    const ScanInputs<T>& in = args.in;
    const ScanSizes& size = in.size;
    const int64_t n = padded(size.state), channel = item.first_channel + block * W;
    const int lanes = lanes_of(size, channel);
    pack_inputs<true>(w, in, item, channel, lanes, step, steps);
    pack(w.dout, args.dout, item.batch, channel, lanes, step, steps);
    prefetch_backward(args, item, block, step - T_);
    const V D = pack_channels(in.D, channel, lanes);
    for (int64_t t = 0; t < steps; ++t) {
      if (in.z) w.gate[t] = sigmoid<V>(w.z[t]);
      w.dy[t] = in.z ? w.dout[t] * w.z[t] * w.gate[t] : w.dout[t];
      w.y[t] = D * w.u[t];
      w.sum_dtu[t] = w.sum_dt[t] = V{};
    }
    const T* saved = checkpoint(const_cast<T*>(args.checkpoints), size, item, chunk, block);
    for (int64_t i = 0; i < n; i += N) {
      for (int j = 0; j < N; ++j) w.states[j] = i + j < size.state ? load<V>(saved + (i + j) * W) : V{};
      recompute_tile(w, w.A + block * n + i, w.B + i, n, steps);
      backward_tile(w, w.h + block * n + i, w.dA + block * n + i, w.A + block * n + i, i, n, steps);
    }
    for (int64_t t = 0; t < steps; ++t) {
      // A was scaled by log2(e) for 2^x; its factor comes back out here.
      V ddelta = w.sum_dtu[t] * w.u[t] + w.sum_dt[t] * static_cast<T>(kLn2);
      if (in.delta_softplus) ddelta *= w.slope[t];
      w.dbias[block] += ddelta;
      w.dD[block] += w.dy[t] * w.u[t];
      if (in.z) {
        const V gate = w.gate[t];
        w.z[t] = w.dout[t] * w.y[t] * gate * (w.z[t] * (T(1) - gate) + T(1));
      }
      w.u[t] = w.sum_dtu[t] * w.dt[t] + w.dy[t] * D;
      w.dt[t] = ddelta;
    }
    unpack(w.u, args.du, item.batch, channel, lanes, step, steps);
    unpack(w.dt, args.ddelta, item.batch, channel, lanes, step, steps);
    if (in.z) unpack(w.z, args.dz, item.batch, channel, lanes, step, steps);
  }

  static void write_channel_sums(const ScanBackward<T>& args, const Workspace& w, const Item& item) {
    const ScanSizes& size = args.in.size;
    const int64_t n = padded(size.state);
    for (int64_t block = 0; block < item.blocks; ++block) {
      const int64_t channel = item.first_channel + block * W, row = item.batch * size.dim + channel;
      for (int c = 0; c < lanes_of(size, channel); ++c) {
        for (int64_t i = 0; i < size.state; ++i) args.dA[(row + c) * size.state + i] = w.dA[block * n + i][c];
        args.dD[row + c] = w.dD[block][c];
        args.ddelta_bias[row + c] = w.dbias[block][c];
      }
    }
  }
};

}  // namespace
