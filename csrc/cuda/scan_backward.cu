// The selective scan, backward. Tiles from the last to the first: the states of a tile are
// recomputed from the one stored before it into shared memory, then processed backwards with the
// adjoint of the state in registers. csrc/README.md has the design.
#include "scan_device.cuh"

namespace vmb::cuda {
namespace {

constexpr int kCopyRow = kLanes * kStates + kRowPad;  // four orders of a row of B or C
constexpr int kDoutRow = kChannels + 4;

// Resident blocks per multiprocessor: what the architecture's shared memory has room for, minus one
// on Hopper and Blackwell, where four would leave 128 registers and cause a few spills. Several
// passes need some more registers.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 800
constexpr int kResidentBlocks = 1;
#elif __CUDA_ARCH__ == 800 || (__CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200)
constexpr int kResidentBlocks = 3;
#else
constexpr int kResidentBlocks = 2;
#endif

// Register k of a lane holds state k ^ swap of its quarter, swap being the low two bits of the
// lane's channel. So, when the sums over channels exchange halves, every lane sends its upper
// registers and keeps its lower ones, for any states: no selects.
VMB_DEVICE void permute(float (&x)[kStatesPerLane], int swap) {
  const bool odd = swap & 1, upper = swap & 2;
  const float a[] = {odd ? x[1] : x[0], odd ? x[0] : x[1], odd ? x[3] : x[2], odd ? x[2] : x[3]};
  x[0] = upper ? a[2] : a[0], x[1] = upper ? a[3] : a[1], x[2] = upper ? a[0] : a[2],
  x[3] = upper ? a[1] : a[3];
}

// Sums over the eight channels of a warp: of dB for lanes of the lower four, of dC for the others,
// each the one state 4 quarter + swap.
VMB_DEVICE float sum_over_channels(float (&dB)[kStatesPerLane], float (&dC)[kStatesPerLane],
                                   bool upper_half) {
#pragma unroll
  for (int k = 0; k < 2; ++k)
    dB[k] += from_lane_xor<2 * kLanes>(dB[k + 2]), dC[k] += from_lane_xor<2 * kLanes>(dC[k + 2]);
  dB[0] += from_lane_xor<kLanes>(dB[1]), dC[0] += from_lane_xor<kLanes>(dC[1]);
  return (upper_half ? dC[0] : dB[0]) + from_lane_xor<4 * kLanes>(upper_half ? dB[0] : dC[0]);
}

template <class T, bool kOnePass>
__global__ void __launch_bounds__(kThreads, kOnePass ? kResidentBlocks : (kResidentBlocks + 1) / 2)
    scan_backward_kernel(const Problems<ScanBackwardArgs> all) {
  const ScanBackwardArgs& args = all.of[blockIdx.y];
  const ScanArgs& in = args.in;
  // (dt, dt u); then (sum of dh_t A', sum of dh_t B) over states
  __shared__ float2 steps[kTile][kChannels + kStepsPad];
  __shared__ float douts[kTile][kDoutRow];  // dL/dy; then y
  alignas(16) __shared__ float rows_B[kTile][kCopyRow], rows_C[kTile][kCopyRow];
  // After each step; behind the steps already processed, the warps' sums for dB and dC.
  __shared__ float4 states[kTile][kThreads];
  __shared__ float biases[kChannels], skips[kChannels];  // registers are scarce
  const Place<kLanes> at(in);
  const int length = static_cast<int>(in.length), dim = static_cast<int>(in.dim),
            pass_count = kOnePass ? 1 : static_cast<int>(passes(in.state));
  const int last_tile = (length - 1) / kTile;
  const bool gated = in.z.data != nullptr;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, swap = at.channel % kStatesPerLane;
  const bool upper_half = lane >= 16;
  // The index of the lane's sum of sum_over_channels in a row of kStates of dB, then kStates of dC.
  const int sum_index = (upper_half ? kStates : 0) + at.lane * kStatesPerLane + swap;

  const Elements<kChannels> mine(steps_innermost(in.u));
  constexpr int kElements = Elements<kChannels>::kCount;
  const int first_step = last_tile * kTile;
  Cursor<const T> u_at(in.u, at.batch, at.first_channel, first_step, mine),
      delta_at(in.delta, at.batch, at.first_channel, first_step, mine);
  Cursor<const T> z_at(in.z, at.batch, at.first_channel, first_step, mine),
      dout_at(args.dout, at.batch, at.first_channel, first_step, mine);
  Cursor<T> du_at(args.du, at.batch, at.first_channel, first_step, mine),
      ddelta_at(args.ddelta, at.batch, at.first_channel, first_step, mine);
  Cursor<T> dz_at(args.dz, at.batch, at.first_channel, first_step, mine);
  Rows<T> rows(in, at.batch, first_step);
  float dD[kElements] = {}, dbias[kElements] = {};
  const auto exists = [&](int i, int start) {
    return at.first_channel + mine.channel_of(i) < dim && start + mine.step_of(i) < length;
  };
  if (threadIdx.x < kChannels) {
    const int channel = at.first_channel + static_cast<int>(threadIdx.x);
    biases[threadIdx.x] = in.delta_bias && channel < dim ? in.delta_bias[channel] : 0.0f;
    skips[threadIdx.x] = in.D && channel < dim ? in.D[channel] : 0.0f;
  }

  float A[kStatesPerLane], dA[kStatesPerLane] = {}, adjoint[kStatesPerLane] = {};
  if (kOnePass) load_decay_rates(A, in, at, 0, swap);

  // The operands of a tile are loaded while the sums of the one before it are added up: while
  // states are computed, there are no registers for them.
  T u_next[kElements], delta_next[kElements], dout_next[kElements], z_next[kElements];
  typename Rows<T>::Values rows_next;
  float before[kStatesPerLane];  // the state before the tile's first step
  const auto load_before = [&](int tile, int64_t state_index) {
    if (tile > 0 && at.active) {
      load_states(before, args.states + (tile - 1) * args.states_stride + state_index);
    } else {
#pragma unroll
      for (int k = 0; k < kStatesPerLane; ++k) before[k] = 0.0f;
    }
  };
  const auto fetch = [&](int tile) {
    const int start = tile * kTile;
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      const bool valid = exists(i, start);
      u_next[i] = valid ? u_at.get(i) : T{};
      delta_next[i] = valid ? delta_at.get(i) : T{};
      dout_next[i] = valid ? dout_at.get(i) : T{};
      z_next[i] = gated && valid ? z_at.get(i) : T{};
    }
    u_at.move(in.u, -1), delta_at.move(in.delta, -1), z_at.move(in.z, -1);
    dout_at.move(args.dout, -1);
    if (kOnePass) {
      rows.load(rows_next, in, 0, length - start), rows.move(in, -1);
      load_before(tile, at.state_index(in, 0));
    }
  };
  fetch(last_tile);
  __syncthreads();

  for (int tile = last_tile; tile >= 0; --tile) {
    const int start = tile * kTile;
    float u[kElements], dt[kElements], slope[kElements], dy[kElements], dgate[kElements];
    float sum_A[kElements] = {}, sum_B[kElements] = {}, y[kElements] = {};
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      u[i] = to_float(u_next[i]), dy[i] = to_float(dout_next[i]), dgate[i] = to_float(z_next[i]);
      dt[i] = to_float(delta_next[i]) + biases[mine.channel_of(i)], slope[i] = 1.0f;
    }
    if (in.delta_softplus) {
#pragma unroll
      for (int i = 0; i < kElements; ++i) dt[i] = softplus(dt[i], slope[i]);
    }
#pragma unroll
    for (int i = 0; i < kElements; ++i)
      if (!exists(i, start)) dt[i] = 0.0f;
    if (gated) {  // out = y z s, s = sigmoid(z)
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        const float z = dgate[i], s = sigmoid(z);
        dgate[i] = dy[i] * s * fmaf(z, 1.0f - s, 1.0f);
        dy[i] *= z * s;
      }
    }

    for (int pass = 0; pass < pass_count; ++pass) {
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        steps[mine.step_of(i)][mine.channel_of(i)] = make_float2(dt[i], dt[i] * u[i]);
        douts[mine.step_of(i)][mine.channel_of(i)] = dy[i];
      }
      if (!kOnePass) rows.load(rows_next, in, pass, length - start);
      rows.stage(rows_next, [&](int step, int n, float B, float C) {
#pragma unroll
        for (int order = 0; order < kStatesPerLane; ++order)
          rows_B[step][order * kStates + (n ^ order)] = B,
                                              rows_C[step][order * kStates + (n ^ order)] = C;
      });
      const int64_t state_index = at.state_index(in, pass);
      if (!kOnePass) load_before(tile, state_index);
      permute(before, swap);
      if (!kOnePass) {
        load_decay_rates(A, in, at, pass, swap);
#pragma unroll
        for (int k = 0; k < kStatesPerLane; ++k) adjoint[k] = dA[k] = 0.0f;
        if (tile < last_tile && at.active) {
          load_states(adjoint, args.adjoint + state_index), load_states(dA, args.dA + state_index);
          permute(dA, swap);
        }
      }
      __syncthreads();

      const float4* const B_at =
          reinterpret_cast<const float4*>(&rows_B[0][swap * kStates + at.lane * kStatesPerLane]);
      const float4* const C_at =
          reinterpret_cast<const float4*>(&rows_C[0][swap * kStates + at.lane * kStatesPerLane]);
      const int rounds = (min(kTile, length - start) + kLanes - 1) / kLanes;
      float h[kStatesPerLane];
#pragma unroll
      for (int k = 0; k < kStatesPerLane; ++k) h[k] = before[k];
#pragma unroll 4
      for (int step = 0; step < rounds * kLanes; ++step) {
        const float2 now = steps[step][at.channel];
        const float4 B = B_at[step * (kCopyRow / 4)];
        const float Bs[] = {B.x, B.y, B.z, B.w};
#pragma unroll
        for (int k = 0; k < kStatesPerLane; ++k)
          h[k] = fmaf(exp2_approx(now.x * A[k]), h[k], now.y * Bs[k]);
        store_states(h, &states[step][threadIdx.x].x);
      }

      for (int round = rounds - 1; round >= 0; --round) {
        float sums_A[kLanes], sums_B[kLanes], ys[kLanes], sums[kLanes];
#pragma unroll
        for (int j = kLanes - 1; j >= 0; --j) {
          const int step = round * kLanes + j;
          const float2 now = steps[step][at.channel];
          const float dy_now = douts[step][at.channel];
          const float4 B = B_at[step * (kCopyRow / 4)], C = C_at[step * (kCopyRow / 4)];
          const float Bs[] = {B.x, B.y, B.z, B.w}, Cs[] = {C.x, C.y, C.z, C.w};
          float previous[kStatesPerLane];
          if (j > 0 || round > 0) {
            load_states(previous, &states[step - 1][threadIdx.x].x);
          } else {
#pragma unroll
            for (int k = 0; k < kStatesPerLane; ++k) previous[k] = before[k];
          }
          float dB[kStatesPerLane], dC[kStatesPerLane];
          sums_A[j] = sums_B[j] = ys[j] = 0.0f;
#pragma unroll
          for (int k = 0; k < kStatesPerLane; ++k) {
            const float dh = fmaf(dy_now, Cs[k], adjoint[k]);
            dC[k] = dy_now * h[k];
            dB[k] = now.y * dh;
            ys[j] = fmaf(Cs[k], h[k], ys[j]);
            sums_B[j] = fmaf(dh, Bs[k], sums_B[j]);
            adjoint[k] = dh * exp2_approx(now.x * A[k]);
            const float dlog = adjoint[k] * previous[k];  // dh times the derivative of h by dt A
            dA[k] = fmaf(dlog, now.x, dA[k]);
            sums_A[j] = fmaf(dlog, A[k], sums_A[j]);
            h[k] = previous[k];
          }
          sums[j] = sum_over_channels(dB, dC, upper_half);
        }
        const float sum_A_now = sum_over_lanes(sums_A, at.lane),
                    sum_B_now = sum_over_lanes(sums_B, at.lane);
        const float y_now = gated ? sum_over_lanes(ys, at.lane) : 0.0f;
        __syncwarp();  // every lane has read the steps of this round, and the states behind them
        steps[round * kLanes + at.lane][at.channel] = make_float2(sum_A_now, sum_B_now);
        douts[round * kLanes + at.lane][at.channel] = y_now;
#pragma unroll
        for (int j = 0; j < kLanes; ++j)
          reinterpret_cast<float*>(&states[round * kLanes + j][warp * 32])[sum_index] = sums[j];
      }
      if (!kOnePass && at.active) {
        store_states(adjoint, args.adjoint + state_index);
        permute(dA, swap), store_states(dA, args.dA + state_index);
      }
      if (kOnePass && tile > 0) fetch(tile - 1);
      __syncthreads();

#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        const float2 both = steps[mine.step_of(i)][mine.channel_of(i)];
        sum_A[i] += both.x, sum_B[i] += both.y, y[i] += douts[mine.step_of(i)][mine.channel_of(i)];
      }
      // The warps' sums, in order: a thread adds four of a step's, of dB or dC.
      constexpr int kQuads = 2 * kStates / 4;
      static_assert(kTile * kQuads == kThreads, "one for each thread");
      const int step = threadIdx.x / kQuads, quad = threadIdx.x % kQuads;
      if (start + step < length) {
        float4 sum = states[step][quad];
#pragma unroll
        for (int w = 1; w < kWarps; ++w) {
          const float4 x = states[step][w * 32 + quad];
          sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
        }
        const int at_step = args.reverse_dBC ? length - 1 - start - step : start + step;
        const int64_t row =
            static_cast<int64_t>(static_cast<int>(blockIdx.x) * length + at_step) * pass_count;
        reinterpret_cast<float4*>(args.dBC + (row + pass) * (2 * kStates))[quad] = sum;
      }
    }

#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      if (exists(i, start)) {
        const float skip = skips[mine.channel_of(i)],
                    ddelta = slope[i] * fmaf(u[i], sum_B[i], kLn2 * sum_A[i]);
        du_at.store(i, fmaf(dt[i], sum_B[i], skip * dy[i]));
        ddelta_at.store(i, ddelta);
        if (gated) dz_at.store(i, dgate[i] * fmaf(skip, u[i], y[i]));
        dD[i] = fmaf(dy[i], u[i], dD[i]);
        dbias[i] += ddelta;
      }
    }
    du_at.move(args.du, -1), ddelta_at.move(args.ddelta, -1), dz_at.move(args.dz, -1);
    if (!kOnePass && tile > 0) rows.move(in, -1), fetch(tile - 1);
  }

  if (kOnePass && at.active) permute(dA, swap), store_states(dA, args.dA + at.state_index(in, 0));
  // The sums over steps of a channel: its elements' threads store theirs in shared memory, and one
  // thread adds them in order.
  __syncthreads();
  float2* const parts = reinterpret_cast<float2*>(states);
  const bool along_steps = mine.step_stride == 0;
  if (!along_steps) {
#pragma unroll
    for (int i = 1; i < kElements; ++i) dD[0] += dD[i], dbias[0] += dbias[i];
  }
#pragma unroll
  for (int i = 0; i < kElements; ++i)
    if (along_steps || i == 0)
      parts[mine.channel_of(i) * (kTile + 1) + mine.step] = make_float2(dD[i], dbias[i]);
  __syncthreads();
  const int channel = at.first_channel + threadIdx.x;
  if (threadIdx.x < kChannels && channel < in.dim) {
    float2 sum = make_float2(0.0f, 0.0f);
    for (int i = 0; i < (along_steps ? kTile : kElements); ++i) {
      const float2 part = parts[threadIdx.x * (kTile + 1) + i];
      sum.x += part.x, sum.y += part.y;
    }
    const int64_t index = static_cast<int64_t>(at.batch) * in.dim + channel;
    if (args.dD) args.dD[index] = sum.x;
    if (args.ddelta_bias) args.ddelta_bias[index] = sum.y;
  }
}

}  // namespace

int scan_backward(const ScanBackwardArgs* args, int count, Type type, void* stream) {
  if (args->in.state <= kStates)
    return launch_scan<kChannels>(scan_backward_kernel<float, true>,
                                  scan_backward_kernel<f16, true>, scan_backward_kernel<bf16, true>,
                                  args, count, type, stream);
  return launch_scan<kChannels>(scan_backward_kernel<float, false>,
                                scan_backward_kernel<f16, false>, scan_backward_kernel<bf16, false>,
                                args, count, type, stream);
}

}  // namespace vmb::cuda
