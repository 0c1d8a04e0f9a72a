// Common to the kernels: types, special functions, and the elements of a tile that a thread loads
// and stores.
#pragma once

#include "kernels.h"

#define VMB_DEVICE __device__ __forceinline__

namespace vmb::cuda {

constexpr int kThreads = 32 * kWarps;

// ---- types, with our own conversions: cuda_fp16.h and cuda_bf16.h would double the compile time.
struct f16 {
  unsigned short bits;
};
struct bf16 {
  unsigned short bits;
};

VMB_DEVICE float to_float(float x) { return x; }
VMB_DEVICE float to_float(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
VMB_DEVICE float to_float(bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

VMB_DEVICE void assign(float& x, float y) { x = y; }
VMB_DEVICE void assign(f16& x, float y) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(x.bits) : "f"(y)); }
// Rounds to nearest, ties to even; NaN stays NaN.
VMB_DEVICE void assign(bf16& x, float y) {
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(x.bits) : "f"(y));
#else
  const unsigned bits = __float_as_uint(y);
  const unsigned rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  x.bits = static_cast<unsigned short>(y == y ? rounded : 0x7fffu);
#endif
}

// The arguments of a launch as the kernel's parameter; of one problem, the second is a copy.
template <class Args>
Problems<Args> problems(const Args* args, int count) {
  return {args[0], args[count - 1]};
}

// The kernel that was compiled for the type.
template <class Kernel>
Kernel of_type(Type type, Kernel f32_kernel, Kernel f16_kernel, Kernel bf16_kernel) {
  return type == Type::f32 ? f32_kernel : type == Type::f16 ? f16_kernel : bf16_kernel;
}

// ---- special functions, one instruction of the special function unit each; relative errors about
// 2^-22 (PTX ISA, ex2 and rcp).
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

VMB_DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
VMB_DEVICE float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
VMB_DEVICE float sigmoid(float x) { return reciprocal(1.0f + exp2_approx(-kLog2e * x)); }

// log(1 + e^x) = max(x, 0) + log1p(t) with t = e^-|x| in (0, 1], and log1p(t) = 2 artanh(s), s = t
// / (2 + t) in (0, 1/3]: a polynomial in s^2, fitted for the least largest relative error, 4e-9,
// keeps the result relatively exact at both ends. Above 17 it is x, as the models define it above
// 20. `slope` is the derivative, sigmoid(x).
VMB_DEVICE float softplus(float x, float& slope) {
  const float t = exp2_approx(-kLog2e * fabsf(x));
  const float s = t * reciprocal(2.0f + t), s2 = s * s;
  const float series =
      fmaf(fmaf(fmaf(fmaf(0.281783313f, s2, 0.279606044f), s2, 0.400249094f), s2, 0.66666317f), s2,
           2.0f);
  slope = (x >= 0.0f ? 1.0f : t) * reciprocal(1.0f + t);
  return fmaf(series, s, fmaxf(x, 0.0f));
}

// ---- a tile in global memory
VMB_DEVICE bool steps_innermost(const Operand& x) { return llabs(x.step) <= llabs(x.row); }

// The elements of a tile of (kChannels, kTile steps) that a thread loads and stores: kCount of
// them, whose (channel, step) differ by a constant. Lanes run along whichever is contiguous in
// memory, so a warp touches whole sectors in either layout.
template <int kChannels>
struct Elements {
  static constexpr int kCount = kChannels * kTile / kThreads;
  int channel, step;                // of the first element
  int channel_stride, step_stride;  // from one to the next

  VMB_DEVICE explicit Elements(bool along_steps) {
    const unsigned thread = threadIdx.x;
    if (along_steps) {
      channel = thread / kTile, step = thread % kTile;
      channel_stride = kThreads / kTile, step_stride = 0;
    } else {
      channel = thread % kChannels, step = thread / kChannels;
      channel_stride = 0, step_stride = kThreads / kChannels;
    }
  }
  VMB_DEVICE int channel_of(int i) const { return channel + i * channel_stride; }
  VMB_DEVICE int step_of(int i) const { return step + i * step_stride; }
};

// A thread's elements of one operand: the offset of the first in the present tile, and from one to
// the next. Offsets have 32 bits, which halves the registers that they take; the launch checks that
// they suffice.
template <class T>
struct Cursor {
  T* data;
  int offset, stride;

  template <class Elements>
  VMB_DEVICE Cursor(const Operand& x, int batch, int channel, int step, const Elements& at) {
    const int row = static_cast<int>(x.row), along = static_cast<int>(x.step);
    data = static_cast<T*>(x.data);
    offset =
        batch * static_cast<int>(x.batch) + (channel + at.channel) * row + (step + at.step) * along;
    stride = at.channel_stride * row + at.step_stride * along;
  }
  VMB_DEVICE auto get(int i) const { return data[offset + i * stride]; }
  VMB_DEVICE float load(int i) const { return to_float(data[offset + i * stride]); }
  VMB_DEVICE void store(int i, float value) const { assign(data[offset + i * stride], value); }
  // Advances by a number of tiles of its operand.
  VMB_DEVICE void move(const Operand& x, int by) {
    offset += by * kTile * static_cast<int>(x.step);
  }
};

}  // namespace vmb::cuda
