// The operators on CUDA tensors: allocation and launches around the kernels of csrc/cuda. Only in
// builds with the feature `cuda` (VMB_CUDA); elsewhere, and for double, CUDA tensors take
// libtorch's own operations.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace vmb {

using OptionalTensor = std::optional<at::Tensor>;

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

// Arguments are checked by the caller; returns as forward_cpu and backward_cpu of
// selective_scan.cpp, conv_cpu of causal_conv1d.cpp.
std::tuple<at::Tensor, at::Tensor> scan_forward_cuda(
    const at::Tensor& u, const at::Tensor& delta, const at::Tensor& A, const at::Tensor& B,
    const at::Tensor& C, const OptionalTensor& D, const OptionalTensor& z,
    const OptionalTensor& delta_bias, bool delta_softplus, bool reverse, bool keep_states);
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
           at::Tensor>
scan_backward_cuda(const at::Tensor& dout, const at::Tensor& u, const at::Tensor& delta,
                   const at::Tensor& A, const at::Tensor& B, const at::Tensor& C,
                   const OptionalTensor& D, const OptionalTensor& z,
                   const OptionalTensor& delta_bias, const at::Tensor& states, bool delta_softplus,
                   bool reverse);
at::Tensor conv_forward_cuda(const at::Tensor& x, const at::Tensor& weight,
                             const OptionalTensor& bias, bool reverse);
std::tuple<at::Tensor, at::Tensor, at::Tensor> conv_backward_cuda(const at::Tensor& dout,
                                                                  const at::Tensor& x,
                                                                  const at::Tensor& weight,
                                                                  const OptionalTensor& bias,
                                                                  bool reverse);

}  // namespace vmb
