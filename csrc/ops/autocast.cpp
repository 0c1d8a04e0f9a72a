// The operators under torch.autocast, and an autocast switch for use outside Python.
//
// Sequences (u, delta, B, C, z of the scan; x of the convolution; xz of the mixer) take the
// current low-precision type, like the inputs of linear, so that the result has the type that the
// next linear expects. The parameters stay float32, in which the kernels compute; only on a GPU are
// the weights of the mixer's projections low-precision. Double is never cast.
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include <memory>

#include "abi.h"
#include "border.h"
#include "scan_inputs.h"

namespace vmb {
namespace {

using at::Tensor;

template <at::DeviceType device, c10::DispatchKey key>
struct Autocast {
  template <class T>
  static T low(const T& x) {
    return at::autocast::cached_cast(at::autocast::get_autocast_dtype(device), x, device);
  }
  static Tensor full(const Tensor& x) { return at::autocast::cached_cast(at::kFloat, x, device); }

  static Tensor scan(const ScanInputs& x, std::string_view path) {
    static const auto inner = op<ScanOp::Function>("vm_beautynet::selective_scan");
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return ScanOp::call(inner, x.map(low<Tensor>, full), path);
  }

  static Tensor conv(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                     bool reverse, std::string_view path) {
    using Conv = decltype(conv);
    static const auto inner = op<Conv>("vm_beautynet::causal_conv1d_silu");
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return inner.call(low(x), weight, bias, reverse, path);
  }

  static Tensor bimamba(const Tensor& xz, at::TensorList forward, at::TensorList backward,
                        std::string_view path) {
    using Bimamba = decltype(bimamba);
    static const auto inner = op<Bimamba>("vm_beautynet::bimamba_inner");
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return inner.call(low(xz), forward, backward, path);
  }

  static void implement(torch::Library& m) {
    m.impl("selective_scan", &ScanOp::unpacked<&scan>);
    m.impl("causal_conv1d_silu", conv);
    m.impl("bimamba_inner", bimamba);
  }
};

// The autocast state of a device before it was enabled here.
struct Previous {
  at::DeviceType device;
  bool enabled;
  at::ScalarType type;
};

}  // namespace
}  // namespace vmb

TORCH_LIBRARY_IMPL(vm_beautynet, AutocastCPU, m) {
  vmb::Autocast<at::kCPU, c10::DispatchKey::AutocastCPU>::implement(m);
}
TORCH_LIBRARY_IMPL(vm_beautynet, AutocastCUDA, m) {
  vmb::Autocast<at::kCUDA, c10::DispatchKey::AutocastCUDA>::implement(m);
}

char* vmb_autocast_begin(int device_type, int scalar_type, void** previous) {
  return vmb::guarded([&] {
    const auto device = static_cast<at::DeviceType>(device_type);
    const auto type = static_cast<at::ScalarType>(scalar_type);
    TORCH_CHECK_VALUE(type == at::kBFloat16 || type == at::kHalf,
                      "autocast: the type must be bfloat16 or float16, is ", type);
    *previous = new vmb::Previous{device, at::autocast::is_autocast_enabled(device),
                                  at::autocast::get_autocast_dtype(device)};
    at::autocast::set_autocast_enabled(device, true);
    at::autocast::set_autocast_dtype(device, type);
    at::autocast::increment_nesting();
  });
}

void vmb_autocast_end(void* pointer) {
  const std::unique_ptr<vmb::Previous> previous(static_cast<vmb::Previous*>(pointer));
  // Casts of parameters are cached only while autocast is enabled: an optimizer step makes them
  // stale.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(previous->device, previous->enabled);
  at::autocast::set_autocast_dtype(previous->device, previous->type);
}
