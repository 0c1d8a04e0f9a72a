// All kernels of one instruction set; included by the file that is compiled for it.
#pragma once

#include "attention_kernel.h"
#include "conv_kernel.h"
#include "gelu_kernel.h"
#include "limit_kernel.h"
#include "norm_kernel.h"
#include "scan_backward_kernel.h"

namespace {

// Vectors of W; backward has N states in registers.
template <class T, int W, int N>
constexpr vmb::KernelTable<T> kernel_table() {
  using S = Scan<T, W, N>;
  using B = ScanBackward<T, W, N>;
  using C = CausalConv<T, W>;
  using L = Limit<T, W, N>;
  using M = Norm<T, W>;
  using A = Attention<T, W>;
  using G = Gelu<T, W>;
  return {S::workspace, S::forward,  B::backward, sizeof(typename C::Workspaces),
          C::forward,   C::backward, M::forward,  M::backward,
          A::workspace, A::forward,  A::backward, G::forward,
          G::backward,  L::forward,  L::backward};
}

}  // namespace
