// In place of cuda_ops.cpp in builds without CUDA kernels, where has_cuda_kernels keeps everyone
// from calling these.
#include <ATen/core/Tensor.h>

#include "cuda_ops.h"

namespace vmb {

namespace {
[[noreturn]] void absent() {
  TORCH_CHECK(false, "this build of vmbeauty has no CUDA kernels: build it with `make cuda`");
}
}  // namespace

std::tuple<at::Tensor, at::Tensor> scan_forward_cuda(const at::Tensor&, const at::Tensor&,
                                                     const at::Tensor&, const at::Tensor&,
                                                     const at::Tensor&, const OptionalTensor&,
                                                     const OptionalTensor&, const OptionalTensor&,
                                                     bool, bool, bool) {
  absent();
}
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
           at::Tensor>
scan_backward_cuda(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                   const at::Tensor&, const at::Tensor&, const OptionalTensor&,
                   const OptionalTensor&, const OptionalTensor&, const at::Tensor&, bool, bool) {
  absent();
}
at::Tensor conv_forward_cuda(const at::Tensor&, const at::Tensor&, const OptionalTensor&, bool) {
  absent();
}
std::tuple<at::Tensor, at::Tensor, at::Tensor> conv_backward_cuda(const at::Tensor&,
                                                                  const at::Tensor&,
                                                                  const at::Tensor&,
                                                                  const OptionalTensor&, bool) {
  absent();
}

}  // namespace vmb
