// The selective scan, forward. A thread keeps four states of one channel in registers over the
// sequence; four lanes share a channel, a warp has eight, a block 32 that share the rows of B and C
// in shared memory. Where that would leave most of the GPU idle, sixteen lanes share a channel and
// a thread has one state. csrc/README.md has the design.
#include "scan_device.cuh"

namespace vmb::cuda {
namespace {

// Resident blocks per multiprocessor: six where 80 registers cause no spill, else five. Several
// passes need more registers.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ == 750 || __CUDA_ARCH__ == 900
constexpr int kResidentBlocks = 6;
#else
constexpr int kResidentBlocks = 5;
#endif

constexpr int kSmallChannels = kThreads / kStates;  // of a block whose threads have one state each

// kOnePass: the state size is at most kStates, so states stay in registers from tile to tile.
template <class T, int kLanes, bool kOnePass>
__global__ void __launch_bounds__(kThreads, kOnePass ? kResidentBlocks : 4)
    scan_forward_kernel(const Problems<ScanForwardArgs> all) {
  const ScanForwardArgs& args = all.of[blockIdx.y];
  const ScanArgs& in = args.in;
  constexpr int kChannels = Place<kLanes>::kChannels, kStatesPerLane = kStates / kLanes,
                kElements = Elements<kChannels>::kCount;
  // (dt, dt u) of a step and channel; then its y, in x
  __shared__ float2 steps[kTile][kChannels + kStepsPad];
  alignas(16) __shared__ float rows_B[kTile][kStates + kRowPad], rows_C[kTile][kStates + kRowPad];
  const Place<kLanes> at(in);
  const int length = static_cast<int>(in.length),
            pass_count = kOnePass ? 1 : static_cast<int>(passes(in.state));
  const bool gated = in.z.data != nullptr;

  const Elements<kChannels> mine(steps_innermost(in.u));
  Cursor<const T> u_at(in.u, at.batch, at.first_channel, 0, mine),
      delta_at(in.delta, at.batch, at.first_channel, 0, mine);
  Cursor<const T> z_at(in.z, at.batch, at.first_channel, 0, mine);
  Cursor<T> out_at(args.out, at.batch, at.first_channel, 0, mine);
  Rows<T> rows(in, at.batch, 0);
  float bias[kElements], skip[kElements];
  int end[kElements];  // steps from an element's on, 0 where its channel does not exist
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    const int channel = at.first_channel + mine.channel_of(i);
    const bool there = channel < static_cast<int>(in.dim);
    end[i] = there ? length - mine.step_of(i) : 0;
    bias[i] = there && in.delta_bias ? in.delta_bias[channel] : 0.0f;
    skip[i] = there && in.D ? in.D[channel] : 0.0f;
  }

  float* slot = args.states + at.state_index(in, 0);  // of the present tile
  const bool stored = args.states && at.active;
  float A[kStatesPerLane], h[kStatesPerLane] = {};
  if (kOnePass) load_decay_rates(A, in, at, 0, 0);

  // The operands of a tile are loaded while the one before it is computed.
  T u_next[kElements], delta_next[kElements];
  typename Rows<T>::Values rows_next;
  const auto fetch = [&](int start) {
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      u_next[i] = start < end[i] ? u_at.get(i) : T{};
      delta_next[i] = start < end[i] ? delta_at.get(i) : T{};
    }
    if (kOnePass) rows.load(rows_next, in, 0, length - start), rows.move(in, 1);
    u_at.move(in.u, 1), delta_at.move(in.delta, 1);
  };
  if (kOnePass) fetch(0);

  for (int start = 0; start < length; start += kTile) {
    float u[kElements], y[kElements] = {}, dt[kElements], slope[kElements];
    float gate[kElements];
    T z[kElements] = {};
    if (!kOnePass) fetch(start);
#pragma unroll
    for (int i = 0; i < kElements; ++i)
      u[i] = to_float(u_next[i]), dt[i] = to_float(delta_next[i]) + bias[i];
    if (gated) {
#pragma unroll
      for (int i = 0; i < kElements; ++i) z[i] = start < end[i] ? z_at.get(i) : T{};
    }
    if (in.delta_softplus) {
#pragma unroll
      for (int i = 0; i < kElements; ++i) dt[i] = softplus(dt[i], slope[i]);
    }
#pragma unroll
    for (int i = 0; i < kElements; ++i)
      if (start >= end[i]) dt[i] = 0.0f;

    for (int pass = 0; pass < pass_count; ++pass) {
#pragma unroll
      for (int i = 0; i < kElements; ++i)
        steps[mine.step_of(i)][mine.channel_of(i)] = make_float2(dt[i], dt[i] * u[i]);
      if (!kOnePass) rows.load(rows_next, in, pass, length - start);
      rows.stage(rows_next, [&](int step, int n, float B, float C) {
        rows_B[step][n] = B, rows_C[step][n] = C;
      });
      if (!kOnePass) {
        load_decay_rates(A, in, at, pass, 0);
        if (start == 0 || !at.active) {
#pragma unroll
          for (int k = 0; k < kStatesPerLane; ++k) h[k] = 0.0f;
        } else {
          load_states(h, slot + pass * kStates - args.states_stride);
        }
      }
      __syncthreads();
      if (kOnePass && start + kTile < length) fetch(start + kTile);

      // kLanes steps at a time, so that each of the channel's lanes ends with the sum over states
      // of one step. Steps after the last have dt = 0 and change nothing.
#pragma unroll 1
      for (int step = 0; step < kTile && start + step < length; step += kLanes) {
        float sums[kLanes];
#pragma unroll
        for (int j = 0; j < kLanes; ++j) {
          const float2 now = steps[step + j][at.channel];
          float B[kStatesPerLane], C[kStatesPerLane];
          load_states(B, &rows_B[step + j][at.lane * kStatesPerLane]);
          load_states(C, &rows_C[step + j][at.lane * kStatesPerLane]);
          sums[j] = 0.0f;
#pragma unroll
          for (int k = 0; k < kStatesPerLane; ++k) {
            h[k] = fmaf(exp2_approx(now.x * A[k]), h[k], now.y * B[k]);
            sums[j] = fmaf(C[k], h[k], sums[j]);
          }
        }
        const float sum = sum_over_lanes(sums, at.lane);
        __syncwarp();  // every lane has read the steps of this round
        steps[step + at.lane][at.channel].x = sum;
      }
      if (stored) store_states(h, slot + pass * kStates);
#pragma unroll
      for (int i = 0; i < kElements; ++i)
        gate[i] = gated ? to_float(z[i]) * sigmoid(to_float(z[i])) : 1.0f;
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kElements; ++i) y[i] += steps[mine.step_of(i)][mine.channel_of(i)].x;
    }

#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      if (start < end[i]) out_at.store(i, fmaf(skip[i], u[i], y[i]) * gate[i]);
    }
    z_at.move(in.z, 1), out_at.move(args.out, 1), slot += args.states_stride;
    if (!kOnePass) rows.move(in, 1);
  }
}

// Whether the grid is so small that sixteen lanes share a channel: its blocks, each a quarter as
// large, are at most three for a multiprocessor. The number of problems does not count, so that a
// problem has the same result alone and with another.
bool is_small(const ScanArgs& in) {
  int device = 0, multiprocessors = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device) !=
          cudaSuccess)
    return false;
  return in.batch * ((in.dim + kSmallChannels - 1) / kSmallChannels) <= 3 * multiprocessors;
}

}  // namespace

int scan_forward(const ScanForwardArgs* args, int count, Type type, void* stream) {
  if (args->in.state > kStates)
    return launch_scan<kChannels>(
        scan_forward_kernel<float, kLanes, false>, scan_forward_kernel<f16, kLanes, false>,
        scan_forward_kernel<bf16, kLanes, false>, args, count, type, stream);
  if (is_small(args->in))
    return launch_scan<kSmallChannels>(
        scan_forward_kernel<float, kStates, true>, scan_forward_kernel<f16, kStates, true>,
        scan_forward_kernel<bf16, kStates, true>, args, count, type, stream);
  return launch_scan<kChannels>(
      scan_forward_kernel<float, kLanes, true>, scan_forward_kernel<f16, kLanes, true>,
      scan_forward_kernel<bf16, kLanes, true>, args, count, type, stream);
}

}  // namespace vmb::cuda
