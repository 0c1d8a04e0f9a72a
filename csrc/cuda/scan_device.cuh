// Common to the scan's two kernels: the position of a thread, rows of B and C, states, and sums
// over lanes.
#pragma once

#include "device.cuh"

namespace vmb::cuda {

constexpr int kMaxThreads = 32 * kMaxWarps;
constexpr int kMaxChannels = kMaxWarps * kChannelsPerWarp;
// Rows of shared memory, padded for few bank conflicts both with lanes along the steps and with
// lanes along the channels.
constexpr int kStepsRow = kMaxChannels + 2;
constexpr int kRowPad = 4;

// The position of a thread: its batch index, its channel, and its quarter of a pass's states.
struct Place {
  int batch, first_channel;
  int channels;          // of a block
  int channel, quarter;  // channel within the block
  bool active;           // the channel exists

  VMB_DEVICE explicit Place(const ScanArgs& in) {
    channels = blockDim.x / kLanes;
    const unsigned blocks = static_cast<unsigned>((in.dim + channels - 1) / channels);
    batch = static_cast<int>(blockIdx.x / blocks),
    first_channel = static_cast<int>(blockIdx.x % blocks) * channels;
    channel = threadIdx.x / kLanes, quarter = threadIdx.x % kLanes;
    active = first_channel + channel < in.dim;
  }
  // The offset of the thread's states of a pass in a (batch, dim, padded state) array.
  VMB_DEVICE int64_t state_index(const ScanArgs& in, int pass) const {
    return static_cast<int64_t>(batch * static_cast<int>(in.dim) + first_channel + channel) *
               padded_state(in.state) +
           pass * kStates + quarter * kStatesPerLane;
  }
};

// A log2(e) of the thread's states; 0 where there is none, which keeps that state at 0. Register k
// gets state k ^ swap.
VMB_DEVICE void load_decay_rates(float (&A)[kStatesPerLane], const ScanArgs& in, const Place& at,
                                 int pass, int swap) {
#pragma unroll
  for (int k = 0; k < kStatesPerLane; ++k) {
    const int n = pass * kStates + at.quarter * kStatesPerLane + (k ^ swap);
    A[k] = at.active && n < in.state ? in.A[(at.first_channel + at.channel) * in.state + n] * kLog2e
                                     : 0.0f;
  }
}

VMB_DEVICE void load_states(float (&h)[kStatesPerLane], const float* from) {
  const float4 x = *reinterpret_cast<const float4*>(from);
  h[0] = x.x, h[1] = x.y, h[2] = x.z, h[3] = x.w;
}
VMB_DEVICE void store_states(const float (&h)[kStatesPerLane], float* to) {
  *reinterpret_cast<float4*>(to) = make_float4(h[0], h[1], h[2], h[3]);
}

// The elements of a tile of B and C, kTile steps of one pass of states, that a thread loads to
// shared memory.
template <class T>
struct Rows {
  const T *B, *C;
  int B_offset, C_offset;  // of the thread's first element of the present tile, pass 0
  int step, n, step_stride, n_stride;

  VMB_DEVICE Rows(const ScanArgs& in, int batch, int start) {
    const bool along_steps = steps_innermost(in.B);
    const int thread = threadIdx.x, per_round = blockDim.x / kTile;
    static_assert(kTile == kStates, "either may run along the lanes");
    step = along_steps ? thread % kTile : thread / kStates,
    n = along_steps ? thread / kTile : thread % kStates;
    step_stride = along_steps ? 0 : per_round, n_stride = along_steps ? per_round : 0;
    B = static_cast<const T*>(in.B.data), C = static_cast<const T*>(in.C.data);
    B_offset = offset(in.B, n, start + step) + batch * static_cast<int>(in.B.batch);
    C_offset = offset(in.C, n, start + step) + batch * static_cast<int>(in.C.batch);
  }
  VMB_DEVICE static int offset(const Operand& x, int row, int step) {
    return row * static_cast<int>(x.row) + step * static_cast<int>(x.step);
  }
  // Advances by a number of tiles.
  VMB_DEVICE void move(const ScanArgs& in, int by) {
    B_offset += offset(in.B, 0, by * kTile), C_offset += offset(in.C, 0, by * kTile);
  }

  // Calls put(step, state of the pass, B, C) with the elements of a pass; zeros where the state or
  // step does not exist.
  template <class Put>
  VMB_DEVICE void stage(const ScanArgs& in, int pass, int steps, const Put& put) const {
    int b = B_offset + offset(in.B, pass * kStates, 0),
        c = C_offset + offset(in.C, pass * kStates, 0);
    const int states = static_cast<int>(in.state) - pass * kStates;
    int s = step, m = n;
    for (int i = threadIdx.x; i < kTile * kStates; i += blockDim.x) {
      const bool valid = m < states && s < steps;
      put(s, m, valid ? to_float(B[b]) : 0.0f, valid ? to_float(C[c]) : 0.0f);
      b += offset(in.B, n_stride, step_stride), c += offset(in.C, n_stride, step_stride),
          s += step_stride, m += n_stride;
    }
  }
};

// The value of the lane whose number differs in the bits of kMask; all lanes of the warp take part.
// Written out, because the intrinsic passes the value through integer registers and every constant
// through one of its own.
template <int kMask>
VMB_DEVICE float from_lane_xor(float x) {
  float y;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, 0xffffffff;" : "=f"(y) : "f"(x), "n"(kMask));
  return y;
}

// Sums over the four lanes of a channel: lane j of them gets the sum of their x[j]. Three shuffles
// instead of the eight of four separate sums, because each exchange halves what is still to be
// added.
VMB_DEVICE float sum_over_lanes(const float (&x)[kLanes], int lane) {
  const bool upper = lane & 2, odd = lane & 1;
  const float low = (upper ? x[2] : x[0]) + from_lane_xor<2>(upper ? x[0] : x[2]);
  const float high = (upper ? x[3] : x[1]) + from_lane_xor<2>(upper ? x[1] : x[3]);
  return (odd ? high : low) + from_lane_xor<1>(odd ? low : high);
}

template <class Args>
int launch_scan(void (*f32_kernel)(Problems<Args>), void (*f16_kernel)(Problems<Args>),
                void (*bf16_kernel)(Problems<Args>), const Args* args, int count, Type type,
                int warps, void* stream) {
  const ScanArgs& in = args->in;
  const int64_t blocks = in.batch * channel_blocks(in.dim, warps);
  if (blocks == 0 || in.length == 0) return cudaSuccess;
  if (blocks > 0x7fffffff || in.length > 0x7fffffff - kTile) return cudaErrorInvalidConfiguration;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(count));
  const auto kernel = of_type(type, f32_kernel, f16_kernel, bf16_kernel);
  kernel<<<grid, 32 * warps, 0, static_cast<cudaStream_t>(stream)>>>(problems(args, count));
  return cudaGetLastError();
}

}  // namespace vmb::cuda
