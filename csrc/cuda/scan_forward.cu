// The selective scan, forward. A thread keeps four states of one channel in registers over the
// sequence; four lanes share a channel, a warp has eight, a block up to 32 that share the rows of B
// and C in shared memory. csrc/README.md has the design.
#include "scan_device.cuh"

namespace vmb::cuda {
namespace {

// kOnePass: the state size is at most kStates, so states stay in registers from tile to tile.
template <class T, bool kOnePass>
VMB_DEVICE void scan_forward_problem(const ScanForwardArgs& args) {
  const ScanArgs& in = args.in;
  __shared__ float2 steps[kTile][kStepsRow];  // (dt, dt u) of a step and channel; then its y, in x
  alignas(16) __shared__ float rows_B[kTile][kStates + kRowPad], rows_C[kTile][kStates + kRowPad];
  const Place at(in);
  const int length = static_cast<int>(in.length),
            pass_count = kOnePass ? 1 : static_cast<int>(passes(in.state));
  const bool gated = in.z.data != nullptr;

  const Elements mine(steps_innermost(in.u), at.channels);
  Cursor<const T> u_at(in.u, at.batch, at.first_channel, 0, mine),
      delta_at(in.delta, at.batch, at.first_channel, 0, mine);
  Cursor<const T> z_at(in.z, at.batch, at.first_channel, 0, mine);
  Cursor<T> out_at(args.out, at.batch, at.first_channel, 0, mine);
  Rows<T> rows(in, at.batch, 0);
  float bias[kElements], skip[kElements];
  bool there[kElements];
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    const int channel = at.first_channel + mine.channel_of(i);
    there[i] = channel < in.dim;
    bias[i] = there[i] && in.delta_bias ? in.delta_bias[channel] : 0.0f;
    skip[i] = there[i] && in.D ? in.D[channel] : 0.0f;
  }

  float A[kStatesPerLane], h[kStatesPerLane] = {};
  if (kOnePass) load_decay_rates(A, in, at, 0, 0);

  for (int start = 0; start < length; start += kTile) {
    float u[kElements], z[kElements], y[kElements] = {}, dt[kElements];
    bool valid[kElements];
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      valid[i] = there[i] && start + mine.step_of(i) < length;
      u[i] = valid[i] ? u_at.load(i) : 0.0f;
      dt[i] = valid[i] ? delta_at.load(i) : 0.0f;
    }
    if (gated) {
#pragma unroll
      for (int i = 0; i < kElements; ++i) z[i] = valid[i] ? z_at.load(i) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      float slope;
      dt[i] += bias[i];
      if (in.delta_softplus) dt[i] = softplus(dt[i], slope);
      if (!valid[i]) dt[i] = 0.0f;
    }
    u_at.move(in.u, 1), delta_at.move(in.delta, 1), z_at.move(in.z, 1);

    for (int pass = 0; pass < pass_count; ++pass) {
#pragma unroll
      for (int i = 0; i < kElements; ++i)
        steps[mine.step_of(i)][mine.channel_of(i)] = make_float2(dt[i], dt[i] * u[i]);
      rows.stage(in, pass, length - start, [&](int step, int n, float B, float C) {
        rows_B[step][n] = B, rows_C[step][n] = C;
      });
      float* const slot =
          args.states ? args.states + start / kTile * args.states_stride + at.state_index(in, pass)
                      : nullptr;
      if (!kOnePass) {
        load_decay_rates(A, in, at, pass, 0);
        if (start == 0 || !at.active) {
#pragma unroll
          for (int k = 0; k < kStatesPerLane; ++k) h[k] = 0.0f;
        } else {
          load_states(h, slot - args.states_stride);
        }
      }
      __syncthreads();

      // Four steps at a time, so that each of the channel's lanes ends with the sum over states of
      // one step. Steps after the last have dt = 0 and change nothing.
      for (int step = 0; step < kTile && start + step < length; step += kLanes) {
        float sums[kLanes];
#pragma unroll
        for (int j = 0; j < kLanes; ++j) {
          const float2 now = steps[step + j][at.channel];
          const float4 B =
              *reinterpret_cast<const float4*>(&rows_B[step + j][at.quarter * kStatesPerLane]);
          const float4 C =
              *reinterpret_cast<const float4*>(&rows_C[step + j][at.quarter * kStatesPerLane]);
          const float Bs[] = {B.x, B.y, B.z, B.w}, Cs[] = {C.x, C.y, C.z, C.w};
          sums[j] = 0.0f;
#pragma unroll
          for (int k = 0; k < kStatesPerLane; ++k) {
            h[k] = fmaf(exp2_approx(now.x * A[k]), h[k], now.y * Bs[k]);
            sums[j] = fmaf(Cs[k], h[k], sums[j]);
          }
        }
        const float sum = sum_over_lanes(sums, at.quarter);
        __syncwarp();  // every lane has read the steps of this round
        steps[step + at.quarter][at.channel].x = sum;
      }
      if (slot && at.active) store_states(h, slot);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kElements; ++i) y[i] += steps[mine.step_of(i)][mine.channel_of(i)].x;
    }

#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      float result = fmaf(skip[i], u[i], y[i]);
      if (gated) result *= z[i] * sigmoid(z[i]);
      if (valid[i]) out_at.store(i, result);
    }
    out_at.move(args.out, 1), rows.move(in, 1);
  }
}

template <class T, bool kOnePass>
__global__ void __launch_bounds__(kMaxThreads, 4)
    scan_forward_kernel(const Problems<ScanForwardArgs> all) {
  if (blockIdx.y == 0)
    scan_forward_problem<T, kOnePass>(all.of[0]);
  else
    scan_forward_problem<T, kOnePass>(all.of[1]);
}

}  // namespace

int scan_forward(const ScanForwardArgs* args, int count, Type type, int warps, void* stream) {
  if (args->in.state <= kStates)
    return launch_scan(scan_forward_kernel<float, true>, scan_forward_kernel<f16, true>,
                       scan_forward_kernel<bf16, true>, args, count, type, warps, stream);
  return launch_scan(scan_forward_kernel<float, false>, scan_forward_kernel<f16, false>,
                     scan_forward_kernel<bf16, false>, args, count, type, warps, stream);
}

}  // namespace vmb::cuda
