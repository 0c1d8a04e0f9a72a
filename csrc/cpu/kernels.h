// The interface between the operators of ops/ and the CPU kernels: plain pointers and strides, so
// that the kernels include neither torch nor standard-library templates and can be compiled once
// per instruction set.
#pragma once

#include <cstdint>

// Never emitted as a function: the linker would keep one copy, perhaps one with instructions that
// another machine does not support.
#define VMB_INLINE __attribute__((always_inline))

namespace vmb {

// A three-dimensional operand seen as (batch, row, step). A scan that runs in reverse is the same
// scan over a view whose first step is the last one and whose step stride is negative, so kernels
// have one direction only.
template <class T>
struct View {
  T* data = nullptr;
  int64_t batch = 0, row = 0, step = 0;  // strides in elements

  VMB_INLINE T* at(int64_t b, int64_t r, int64_t s) const {
    return data + b * batch + r * row + s * step;
  }
  VMB_INLINE explicit operator bool() const { return data != nullptr; }
  VMB_INLINE View<const T> read() const { return {data, batch, row, step}; }
};

// Channels of one work item; fixed, so that the order of every sum does not depend on the number of
// threads.
constexpr int64_t kGroup = 192;
// Steps of a strip, which begins with stored states: backward recomputes those of one strip at a
// time. The last one may be longer, since a few steps take as long to prepare as a full strip:
// Vim's 197 and 65 steps are 5 and 1 strips of 32, and a last one of 37 and 33.
constexpr int64_t kStrip = 32, kMaxStrip = 40;

struct ScanSizes {
  int64_t batch, dim, length, state;
  VMB_INLINE int64_t groups() const { return (dim + kGroup - 1) / kGroup; }
  VMB_INLINE int64_t strips() const {
    return length <= kMaxStrip ? 1 : (length - kMaxStrip + kStrip - 1) / kStrip + 1;
  }
  // The steps of the strip that begins at a multiple of kStrip.
  VMB_INLINE int64_t steps(int64_t first) const {
    return length - first <= kMaxStrip ? length - first : kStrip;
  }
  VMB_INLINE int64_t items() const { return batch * groups(); }
  // Elements of the states stored at one step: (vector of channels, state, lane), with the channels
  // of the widest vectors, 16.
  VMB_INLINE int64_t states() const { return (dim + 15) / 16 * 16 * state; }
  // Elements of all stored states: (batch, strip, states).
  VMB_INLINE int64_t checkpoint_elements() const { return batch * strips() * states(); }
};

template <class T>
struct ScanArgs {
  ScanSizes size;
  View<const T> u, delta, z;  // rows are channels; z may be empty
  View<const T> B, C;         // rows are states
  View<const T> A;            // batch stride unused; rows are channels, steps are states
  const T* D;                 // (dim) or null
  const T* delta_bias;        // (dim) or null
  bool delta_softplus;
};

template <class T>
struct ScanForwardArgs {
  ScanArgs<T> in;
  View<T> out;
  T* checkpoints;  // null without backward
  T scale;         // a factor of the output
  bool add;        // to what `out` holds
};

template <class T>
struct ScanBackwardArgs {
  ScanArgs<T> in;
  View<const T> dout;
  const T* checkpoints;
  View<T> du, ddelta, dz;  // ddelta may be delta's own memory
  T scale;                 // a factor of dout
  bool add_dz;             // to what `dz` holds
  // Partial sums, one slot per work item; the caller adds them in order.
  T* dA;           // (batch, dim, state)
  T* dD;           // (batch, dim)
  T* ddelta_bias;  // (batch, dim)
  // batch is the work item (batch index, group); rows are states, adjacent in memory
  View<T> dB, dC;
};

// silu(bias + causal depthwise convolution):
// out[l] = silu(bias + sum_k weight[k] x[l - width + 1 + k]).
constexpr int64_t kMaxConvWidth = 8;

template <class T>
struct ConvArgs {
  int64_t batch, dim, length, width;
  View<const T> x;
  View<const T> weight;  // rows are channels, steps are taps
  const T* bias;         // (dim) or null
  VMB_INLINE int64_t items() const { return batch * ((dim + kGroup - 1) / kGroup); }
};

template <class T>
struct ConvForwardArgs {
  ConvArgs<T> in;
  View<T> out;
};

template <class T>
struct ConvBackwardArgs {
  ConvArgs<T> in;
  View<const T> dout;
  View<T> dx;
  bool add_dx;   // to what `dx` holds
  T* dweight;  // (batch, dim, width), partial sums over the steps
  T* dbias;    // (batch, dim)
};

// Rows of one partial sum of a norm's parameters; fixed, so that no sum depends on the threads.
constexpr int64_t kNormRows = 32;

// sum = x + factor update, out = (sum - mean) rstd weight + bias, over rows; RMS norms have neither
// mean nor bias. Work items are blocks of kNormRows rows.
template <class T>
struct NormForwardArgs {
  int64_t rows, dim;
  const T *x, *update;  // (rows, dim); without an update, the sum is x
  const T* factors;     // (rows / rows_per_factor), or null
  int64_t rows_per_factor;
  const T *weight, *bias;  // (dim); without a weight, only the sum is computed
  T eps;
  T *sum, *out;    // (rows, dim); no sum without an update
  T *mean, *rstd;  // (rows)
};

template <class T>
struct NormBackwardArgs {
  int64_t rows, dim;
  const T* x;              // (rows, dim): the sum
  const T *dout, *dsum;    // (rows, dim); dsum may be null
  const T* factors;        // as in forward
  int64_t rows_per_factor;
  const T* weight;         // (dim)
  const T *mean, *rstd;    // (rows)
  T *dx, *dupdate;         // (rows, dim); dupdate, which is factor dx, may be null
  T *dweight, *dbias;      // (item, dim): partial sums; null without a bias
};

// Self-attention over a qkv projection's output (batch, length, 3, heads, dim).
struct AttentionSizes {
  int64_t batch, length, heads, dim;
  VMB_INLINE int64_t channels() const { return heads * dim; }
  VMB_INLINE int64_t row() const { return 3 * channels(); }
  VMB_INLINE int64_t items() const { return batch * heads; }
};

template <class T>
struct AttentionForwardArgs {
  AttentionSizes size;
  T scale;  // of the scores
  const T* qkv;
  T* out;  // (batch, length, heads, dim)
};

template <class T>
struct AttentionBackwardArgs {
  AttentionSizes size;
  T scale;
  const T *qkv, *dout;
  T* dqkv;
};

// out = x gate(x), elementwise: GELU's gate, or its approximation.
template <class T>
struct GeluForwardArgs {
  bool quick;
  const T* x;
  T* out;
};

// The result again, and the gradient; dx may be dout's own memory.
template <class T>
struct GeluBackwardArgs {
  bool quick;
  const T *x, *dout;
  T *out, *dx;
};

// The kernels of one instruction set; each call does work items [begin, end) with `workspace` bytes
// of scratch memory, aligned to 64.
template <class T>
struct KernelTable {
  int64_t (*scan_workspace)(const ScanSizes&);
  void (*scan_forward)(const ScanForwardArgs<T>&, int64_t begin, int64_t end, void* workspace);
  void (*scan_backward)(const ScanBackwardArgs<T>&, int64_t begin, int64_t end, void* workspace);
  int64_t conv_workspace;
  void (*conv_forward)(const ConvForwardArgs<T>&, int64_t begin, int64_t end, void* workspace);
  void (*conv_backward)(const ConvBackwardArgs<T>&, int64_t begin, int64_t end, void* workspace);
  void (*norm_forward)(const NormForwardArgs<T>&, int64_t begin, int64_t end);
  void (*norm_backward)(const NormBackwardArgs<T>&, int64_t begin, int64_t end);
  int64_t (*attention_workspace)(const AttentionSizes&);
  void (*attention_forward)(const AttentionForwardArgs<T>&, int64_t begin, int64_t end,
                            void* workspace);
  void (*attention_backward)(const AttentionBackwardArgs<T>&, int64_t begin, int64_t end,
                             void* workspace);
  // Work items are elements.
  void (*gelu_forward)(const GeluForwardArgs<T>&, int64_t begin, int64_t end);
  void (*gelu_backward)(const GeluBackwardArgs<T>&, int64_t begin, int64_t end);
  // Only the arithmetic of a scan (limit_kernel.h). The result is meaningless, and keeps the
  // compiler from removing the work.
  T (*limit_forward)(const ScanSizes&, int64_t begin, int64_t end);
  T (*limit_backward)(const ScanSizes&, int64_t begin, int64_t end);
};

extern const KernelTable<float> kPortableFloat;
extern const KernelTable<double> kPortableDouble;
#if defined(__x86_64__)
extern const KernelTable<float> kAvx2Float;
extern const KernelTable<float> kAvx512Float;
#endif

}  // namespace vmb
