// The interface between the ATen side and the CUDA kernels: raw pointers, strides in elements and a
// stream. Neither torch nor CUDA headers, so that the kernels compile in seconds and the ATen side
// needs no nvcc. Every field has eight bytes: tests/ptx packs the structs by hand.
#pragma once

#include <cstdint>

namespace vmb::cuda {

// How the kernels of selective_scan divide their work; csrc/README.md explains why.
constexpr int kLanes = 4;          // lanes of a warp that share a channel
constexpr int kStatesPerLane = 4;  // states of a lane, in registers
constexpr int kStates =
    kLanes * kStatesPerLane;  // states of one pass; larger state sizes take several
constexpr int kChannelsPerWarp = 32 / kLanes;
constexpr int kWarps = 4;  // of a block, one for each scheduler of a multiprocessor
constexpr int kChannels = kWarps * kChannelsPerWarp;  // of a block
constexpr int kTile = 16;                             // steps between two stored states
constexpr int kMaxConvWidth = 8;

// The type of the activations. Parameters (A, D, biases, convolution weights), states and partial
// sums are always float.
enum class Type { f32, f16, bf16 };

// A (batch, row, step) operand; rows are channels or states. A scan in reverse has its pointer at
// the last step and a negative step stride, so the kernels have one direction only.
struct Operand {
  void* data;
  int64_t batch, row, step;
};

struct ScanArgs {
  int64_t batch, dim, length, state;
  Operand u, delta, z, B, C;  // z.data may be null
  const float* A;             // (dim, state)
  const float* D;             // (dim) or null
  const float* delta_bias;    // (dim) or null
  int64_t delta_softplus;
};

struct ScanForwardArgs {
  ScanArgs in;
  Operand out;
  // (tiles, batch, dim, padded state): the state after each tile of kTile steps, for backward. One
  // slot, overwritten by every tile (states_stride 0), is enough without backward, and only needed
  // where state > kStates; otherwise null.
  float* states;
  int64_t states_stride;
};

struct ScanBackwardArgs {
  ScanArgs in;
  Operand dout;
  const float* states;
  int64_t states_stride;
  Operand du, ddelta, dz;
  // Partial sums that sum_parts adds in a fixed order.
  float* dA;            // (batch, dim, padded state)
  float* dD;            // (batch, dim) or null
  float* ddelta_bias;   // (batch, dim) or null
  float* dBC;           // (batch, blocks of channels, length, passes, {dB, dC}, kStates)
  int64_t reverse_dBC;  // the steps of dBC from last to first, which undoes the operands' reversal
  float* adjoint;       // (batch, dim, padded state); only where state > kStates
};

struct ConvArgs {
  int64_t batch, dim, length, width;
  Operand x;
  const float* weight;  // (dim, width)
  const float* bias;    // (dim) or null
};

struct ConvForwardArgs {
  ConvArgs in;
  Operand out;
};

struct ConvBackwardArgs {
  ConvArgs in;
  Operand dout, dx;
  float* dweight;  // (batch, conv_chunks, dim, width), partial sums
  float* dbias;    // (batch, conv_chunks, dim), partial sums, or null
};

// What one launch computes: one problem, or two of the same sizes and types, such as both
// directions of a mixer (the second index of the grid). Passed to the kernel by value.
constexpr int kMaxProblems = 2;
template <class Args>
struct Problems {
  Args of[kMaxProblems];
};

// A sum of partial results: out[o][i] = sum over p of parts[o][p][i], in the order of p.
struct SumJob {
  const float* parts;
  float* out;
  int64_t outer, count, inner;
};
constexpr int kMaxSums = 4;  // of a launch

constexpr int64_t passes(int64_t state) { return (state + kStates - 1) / kStates; }
constexpr int64_t padded_state(int64_t state) { return passes(state) * kStates; }
constexpr int64_t tiles(int64_t length) { return (length + kTile - 1) / kTile; }
constexpr int64_t channel_blocks(int64_t dim) { return (dim + kChannels - 1) / kChannels; }

// The chunks of the length that blocks of conv_backward share: as many as give a GPU some hundred
// blocks. It depends on the sizes alone, so every device adds up the same sums.
constexpr int kConvSteps = 32;  // of a tile
constexpr int64_t conv_chunks(int64_t batch, int64_t dim, int64_t length) {
  const int64_t blocks = batch * channel_blocks(dim),
                tiles = (length + kConvSteps - 1) / kConvSteps,
                wanted = blocks > 0 ? (512 + blocks - 1) / blocks : 1;
  return wanted < tiles ? wanted : tiles;
}

// Each launches on the stream (a cudaStream_t) and returns a cudaError_t as int, 0 for success.
// `args` are those of `count` problems, 1 to kMaxProblems.
int scan_forward(const ScanForwardArgs* args, int count, Type type, void* stream);
int scan_backward(const ScanBackwardArgs* args, int count, Type type, void* stream);
int conv_forward(const ConvForwardArgs* args, int count, Type type, void* stream);
int conv_backward(const ConvBackwardArgs* args, int count, Type type, void* stream);
// `count` sums, 1 to kMaxSums, in one launch.
int sum_parts(const SumJob* jobs, int count, void* stream);
// The text of an error that one of these returned.
const char* error_text(int error);

}  // namespace vmb::cuda
