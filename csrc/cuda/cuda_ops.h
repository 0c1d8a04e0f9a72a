// The operators on CUDA tensors: allocation and launches around the kernels of csrc/cuda. Only in
// builds against a libtorch with CUDA (VMB_CUDA); elsewhere, and for double, CUDA tensors take
// libtorch's own operations.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

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

// The caller checks the arguments. Results are those of forward_cpu and backward_cpu in
// selective_scan.cpp and causal_conv1d.cpp.
ScanResult scan_forward_cuda(const ScanInputs& x, bool keep_states);
ScanGradients scan_backward_cuda(const ScanInputs& x, const at::Tensor& states,
                                 const at::Tensor& dout);
at::Tensor conv_forward_cuda(const at::Tensor& x, const at::Tensor& weight,
                             const OptionalTensor& bias, bool reverse);
std::tuple<at::Tensor, at::Tensor, at::Tensor> conv_backward_cuda(const at::Tensor& dout,
                                                                  const at::Tensor& x,
                                                                  const at::Tensor& weight,
                                                                  const OptionalTensor& bias,
                                                                  bool reverse);

}  // namespace vmb
