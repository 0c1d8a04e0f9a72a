// The operators on CUDA tensors: allocation and launches around the kernels of csrc/cuda. Only in
// builds against a libtorch with CUDA (VMB_CUDA); elsewhere, and for double, CUDA tensors take
// libtorch's own operations.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/scan_inputs.h"

namespace vmb {

// Whether the kernels compute on this tensor's device and type.
inline bool has_cuda_kernels(const at::Tensor& x) {
#ifdef VMB_CUDA
  return x.is_cuda() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kHalf ||
                         x.scalar_type() == at::kBFloat16);
#else
  (void)x;
  return false;
#endif
}

// Whether the operators have kernels for this tensor; without, they take libtorch's own operations.
inline bool has_kernels(const at::Tensor& x) { return x.is_cpu() || has_cuda_kernels(x); }

// The functions of ops/scan_inputs.h: one launch computes one scan or convolution, or two. A result
// is that of separate launches, bit for bit, before the mean or sum over them.
ScanResult scan_forward_cuda(Scans scans, bool keep_states);
void scan_backward_cuda(Scans scans, const at::Tensor& states, const at::Tensor& dout,
                        ScanGradients& gradients);
at::Tensor conv_forward_cuda(Convs convs);
void conv_backward_cuda(Convs convs, const at::Tensor& dout, ConvGradients& gradients);

}  // namespace vmb
