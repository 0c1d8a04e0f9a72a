// Replaces cuda_ops.cpp in builds without CUDA kernels, where has_cuda_kernels keeps callers away.
#include "cuda_ops.h"

namespace vmb {

namespace {
[[noreturn]] void absent() {
  TORCH_CHECK(false, "this build of vmbeauty has no CUDA kernels: build it with `make cuda`");
}
}  // namespace

ScanResult scan_forward_cuda(const ScanInputs&, bool) { absent(); }
ScanGradients scan_backward_cuda(const ScanInputs&, const at::Tensor&, const at::Tensor&) {
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
