// Replaces cuda_ops.cpp in builds without CUDA kernels, where has_cuda_kernels keeps callers away.
#include "cuda_ops.h"

namespace vmb {

namespace {
[[noreturn]] void absent() {
  TORCH_CHECK(false, "this build of vmbeauty has no CUDA kernels: build it with `make cuda`");
}
}  // namespace

std::vector<ScanResult> scan_forward_cuda(c10::ArrayRef<ScanInputs>, bool) { absent(); }
std::vector<ScanGradients> scan_backward_cuda(c10::ArrayRef<ScanInputs>, at::TensorList,
                                              at::TensorList) {
  absent();
}
std::vector<at::Tensor> conv_forward_cuda(c10::ArrayRef<ConvInputs>) { absent(); }
std::vector<ConvGradients> conv_backward_cuda(c10::ArrayRef<ConvInputs>, at::TensorList) {
  absent();
}

}  // namespace vmb
