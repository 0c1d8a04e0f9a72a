#include "abi.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <torch/version.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "border.h"
#include "dispatch.h"
#include "scan_inputs.h"

namespace {

using at::Tensor;
using vmb::EagerScanOp, vmb::OptionalTensor, vmb::ScanOp;
using vmb::guarded, vmb::op, vmb::tensor, vmb::tensor_or_undefined, vmb::tensors;

vmb::ScanInputs operands(const vmb_scan_inputs& x) {
  return {tensor(x.u),
          tensor(x.delta),
          tensor(x.A),
          tensor(x.B),
          tensor(x.C),
          tensor_or_undefined(x.D),
          tensor_or_undefined(x.z),
          tensor_or_undefined(x.delta_bias),
          x.delta_softplus != 0,
          x.reverse != 0};
}

using Conv = Tensor(const Tensor&, const Tensor&, const OptionalTensor&, bool, std::string_view);
using Bimamba = Tensor(const Tensor&, at::TensorList, at::TensorList, std::string_view);

}  // namespace

char* vmb_selective_scan(const vmb_scan_inputs* x, const char* path, void** out) {
  return guarded([&] {
    static const auto scan = op<ScanOp::Function>("vm_beautynet::selective_scan");
    *out = new Tensor(ScanOp::call(scan, operands(*x), path));
  });
}

char* vmb_selective_scan_eager(const vmb_scan_inputs* x, void** out) {
  return guarded([&] {
    static const auto scan = op<EagerScanOp::Function>("vm_beautynet::selective_scan_eager");
    *out = new Tensor(EagerScanOp::call(scan, operands(*x)));
  });
}

char* vmb_causal_conv1d_silu(const void* x, const void* weight, const void* bias, int reverse,
                             const char* path, void** out) {
  return guarded([&] {
    static const auto conv = op<Conv>("vm_beautynet::causal_conv1d_silu");
    *out = new Tensor(conv.call(tensor(x), tensor(weight),
                                OptionalTensor(tensor_or_undefined(bias)), reverse != 0, path));
  });
}

char* vmb_bimamba_inner(const void* xz, void* const* forward, void* const* backward,
                        const char* path, void** out) {
  return guarded([&] {
    constexpr int64_t kParameters = 7;
    static const auto bimamba = op<Bimamba>("vm_beautynet::bimamba_inner");
    *out = new Tensor(bimamba.call(tensor(xz), tensors(forward, kParameters),
                                   tensors(backward, kParameters), path));
  });
}

char* vmb_use_one_thread(void) {
  return guarded([] {
    // A thread takes libtorch's number of threads when it first needs it, here and in libtorch, for
    // each has its own copy of this: both must have done so.
    at::internal::lazy_init_num_threads();
    at::get_num_threads();
    at::set_num_threads(1);
  });
}

void vmb_keep_freed_memory(void) {
#if defined(__GLIBC__)
  // Older C libraries take no more than 32 MiB here.
  if (mallopt(M_MMAP_THRESHOLD, 1 << 30) == 0) mallopt(M_MMAP_THRESHOLD, 32 << 20);
  // Never trim: returning a gigabyte takes 80 ms, in whichever operator frees the block below it.
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

const char* vmb_libtorch_version(void) { return TORCH_VERSION; }
int vmb_cuda_loaded(void) { return at::detail::getCUDAHooks().hasCUDART(); }
const char* vmb_best_path(void) { return vmb::best_path().data(); }
int vmb_path_available(const char* path) { return vmb::path_available(path); }
void vmb_free_message(char* message) { std::free(message); }
