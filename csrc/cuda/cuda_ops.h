// The operators on CUDA tensors: allocation and launches around the kernels of csrc/cuda. Only in
// builds against a libtorch with CUDA (VMB_CUDA); elsewhere, and for double, CUDA tensors take
// libtorch's own operations.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <tuple>
#include <vector>

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

// The operands of causal_conv1d_silu.
struct ConvInputs {
  at::Tensor x;         // (batch, dim, length)
  at::Tensor weight;    // (dim, 1, width)
  OptionalTensor bias;  // (dim), may be absent
  bool reverse = false;
};
using ConvGradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;  // of x, weight and bias

// One problem, or two that a launch computes together, such as both directions of a mixer: sizes,
// types, device, delta_softplus and the optional operands that are given must be the same. Results
// are those of separate calls, bit for bit, in the order of the problems: those of forward_cpu and
// backward_cpu in selective_scan.cpp and causal_conv1d.cpp. The caller checks the arguments of each
// problem.
std::vector<ScanResult> scan_forward_cuda(c10::ArrayRef<ScanInputs> problems, bool keep_states);
// `states` and `douts` have one tensor for each problem.
std::vector<ScanGradients> scan_backward_cuda(c10::ArrayRef<ScanInputs> problems,
                                              at::TensorList states, at::TensorList douts);
std::vector<at::Tensor> conv_forward_cuda(c10::ArrayRef<ConvInputs> problems);
std::vector<ConvGradients> conv_backward_cuda(c10::ArrayRef<ConvInputs> problems,
                                              at::TensorList douts);

}  // namespace vmb
