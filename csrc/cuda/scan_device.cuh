// Common to the scan's two kernels: the position of a thread, rows of B and C, states, and sums
// over lanes.
#pragma once

#include "device.cuh"

namespace vmb::cuda {

// Rows of shared memory are padded for few bank conflicts both with lanes along the steps and with
// lanes along the channels.
constexpr int kStepsPad = 2, kRowPad = 4;

// The position of a thread where kLanes share a channel: its batch index, its channel, and which of
// the channel's lanes it is.
template <int kLanes>
struct Place {
  static constexpr int kChannels = kThreads / kLanes, kStatesPerLane = kStates / kLanes;
  int batch, first_channel;
  int channel, lane;  // channel within the block
  bool active;        // the channel exists

  VMB_DEVICE explicit Place(const ScanArgs& in) {
    const int dim = static_cast<int>(in.dim);
    const unsigned blocks = (dim + kChannels - 1) / kChannels;
    batch = static_cast<int>(blockIdx.x / blocks),
    first_channel = static_cast<int>(blockIdx.x % blocks) * kChannels;
    channel = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
    active = first_channel + channel < dim;
  }
  // The offset of the thread's states of a pass in a (batch, dim, padded state) array.
  VMB_DEVICE int64_t state_index(const ScanArgs& in, int pass) const {
    return static_cast<int64_t>(batch * static_cast<int>(in.dim) + first_channel + channel) *
               static_cast<int>(padded_state(in.state)) +
           pass * kStates + lane * kStatesPerLane;
  }
};

// A log2(e) of the thread's states; 0 where there is none, which keeps that state at 0. Register k
// gets state k ^ swap.
template <int kLanes>
VMB_DEVICE void load_decay_rates(float (&A)[kStates / kLanes], const ScanArgs& in,
                                 const Place<kLanes>& at, int pass, int swap) {
  constexpr int kStatesPerLane = kStates / kLanes;
  const int state = static_cast<int>(in.state);
#pragma unroll
  for (int k = 0; k < kStatesPerLane; ++k) {
    const int n = pass * kStates + at.lane * kStatesPerLane + (k ^ swap);
    A[k] = at.active && n < state ? in.A[(at.first_channel + at.channel) * state + n] * kLog2e
                                  : 0.0f;
  }
}

VMB_DEVICE void load_states(float (&h)[4], const float* from) {
  const float4 x = *reinterpret_cast<const float4*>(from);
  h[0] = x.x, h[1] = x.y, h[2] = x.z, h[3] = x.w;
}
VMB_DEVICE void load_states(float (&h)[1], const float* from) { h[0] = *from; }
VMB_DEVICE void store_states(const float (&h)[4], float* to) {
  *reinterpret_cast<float4*>(to) = make_float4(h[0], h[1], h[2], h[3]);
}
VMB_DEVICE void store_states(const float (&h)[1], float* to) { *to = h[0]; }

// The elements of a tile of B and C, kTile steps of one pass of states, that a thread loads to
// shared memory: all loads before the first store, so that they wait for memory once.
template <class T>
struct Rows {
  static constexpr int kCount = kTile * kStates / kThreads, kPerRound = kThreads / kTile;
  static_assert(kTile == kStates, "either may run along the lanes");
  struct Values {
    T B[kCount], C[kCount];
  };
  const T *B, *C;
  int B_offset, C_offset;  // of the thread's first element of the present tile, pass 0
  int B_stride, C_stride;  // from one element to the next
  int step, n, step_stride, n_stride;

  VMB_DEVICE Rows(const ScanArgs& in, int batch, int start) {
    const bool along_steps = steps_innermost(in.B);
    const int lane = threadIdx.x % kTile, round = threadIdx.x / kTile;
    step = along_steps ? lane : round, n = along_steps ? round : lane;
    step_stride = along_steps ? 0 : kPerRound, n_stride = along_steps ? kPerRound : 0;
    B = static_cast<const T*>(in.B.data), C = static_cast<const T*>(in.C.data);
    B_offset = offset(in.B, n, start + step) + batch * static_cast<int>(in.B.batch);
    C_offset = offset(in.C, n, start + step) + batch * static_cast<int>(in.C.batch);
    B_stride = offset(in.B, n_stride, step_stride), C_stride = offset(in.C, n_stride, step_stride);
  }
  VMB_DEVICE static int offset(const Operand& x, int row, int step) {
    return row * static_cast<int>(x.row) + step * static_cast<int>(x.step);
  }
  // Advances by a number of tiles.
  VMB_DEVICE void move(const ScanArgs& in, int by) {
    B_offset += offset(in.B, 0, by * kTile), C_offset += offset(in.C, 0, by * kTile);
  }

  // Loads the elements of a pass; zeros where the state or step does not exist.
  VMB_DEVICE void load(Values& to, const ScanArgs& in, int pass, int steps) const {
    const int states = static_cast<int>(in.state) - pass * kStates;
    const int b = B_offset + offset(in.B, pass * kStates, 0),
              c = C_offset + offset(in.C, pass * kStates, 0);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const bool valid = n + i * n_stride < states && step + i * step_stride < steps;
      to.B[i] = valid ? B[b + i * B_stride] : T{};
      to.C[i] = valid ? C[c + i * C_stride] : T{};
    }
  }
  // Calls put(step, state of the pass, B, C) with the elements that were loaded.
  template <class Put>
  VMB_DEVICE void stage(const Values& from, const Put& put) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      put(step + i * step_stride, n + i * n_stride, to_float(from.B[i]), to_float(from.C[i]));
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

// Sums over the kLanes lanes of a channel: lane j of them gets the sum of their x[j]. Of four lanes
// three shuffles instead of the eight of four separate sums, because each exchange halves what is
// still to be added.
template <int kLanes>
VMB_DEVICE float sum_over_lanes(const float (&x)[kLanes], int lane) {
  constexpr int kHalf = kLanes / 2;
  const bool upper = lane & kHalf;
  float sums[kHalf];
#pragma unroll
  for (int j = 0; j < kHalf; ++j)
    sums[j] = (upper ? x[j + kHalf] : x[j]) + from_lane_xor<kHalf>(upper ? x[j] : x[j + kHalf]);
  if constexpr (kHalf == 1)
    return sums[0];
  else
    return sum_over_lanes(sums, lane);
}

// Launches for blocks of kChannels channels.
template <int kChannels, class Args>
int launch_scan(void (*f32_kernel)(Problems<Args>), void (*f16_kernel)(Problems<Args>),
                void (*bf16_kernel)(Problems<Args>), const Args* args, int count, Type type,
                void* stream) {
  const ScanArgs& in = args->in;
  const int64_t blocks = in.batch * ((in.dim + kChannels - 1) / kChannels);
  if (blocks == 0 || in.length == 0) return cudaSuccess;
  if (blocks > 0x7fffffff || in.length > 0x7fffffff - kTile) return cudaErrorInvalidConfiguration;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(count));
  const auto kernel = of_type(type, f32_kernel, f16_kernel, bf16_kernel);
  kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(problems(args, count));
  return cudaGetLastError();
}

}  // namespace vmb::cuda
