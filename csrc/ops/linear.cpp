// Matrix products of float32 on the CPU, and the linear layer that they make.
//
// libtorch multiplies float32 matrices with MKL, which takes its AVX-512 kernels on some of the
// processors that have AVX-512 and its AVX2 kernels on the others. oneDNN, which libtorch has for
// other types, takes AVX-512 wherever there is AVX-512. So oneDNN multiplies where the processor
// has it and MKL says that it does not use it, and where a product is large enough to be worth
// oneDNN's set-up; the choice depends on nothing else, and so is the same in every run.
#include "linear.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "abi.h"
#include "border.h"
#include "dispatch.h"
#include "launches.h"
#include "scan_inputs.h"

#if defined(__x86_64__) && defined(__linux__)
// libtorch exports both, and headers declare neither. Null where a libtorch has none.
namespace at::native {
__attribute__((weak)) void mkldnn_matmul(const Tensor& a, const Tensor& b, const Tensor& out,
                                         float beta, float alpha);
}
// The instruction set that MKL selects, as MKL_CBWR_Get_Auto_Branch of its public interface: below
// 0 where it does not know the processor, and MKL_CBWR_AUTO where that is not Intel's.
extern "C" __attribute__((weak)) int mkl_serv_cbwr_get_auto_branch();
#endif

namespace vmb {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Multiply-adds of a product from which on oneDNN is faster; below, both take microseconds.
constexpr int64_t kMinMultiplyAdds = 1 << 19;

bool mkl_lacks_avx512() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr int kFirstAvx512 = 11;  // MKL_CBWR_AVX512_MIC of mkl_types.h
  static const int branch =
      mkl_serv_cbwr_get_auto_branch ? mkl_serv_cbwr_get_auto_branch() : kFirstAvx512;
  static const bool lacks = path_available("avx512") && at::hasMKLDNN() &&
                            at::native::mkldnn_matmul && branch >= 0 && branch < kFirstAvx512;
  return lacks;
#else
  return false;
#endif
}

bool by_onednn(const Tensor& a, const Tensor& b, int64_t multiply_adds) {
  return multiply_adds >= kMinMultiplyAdds && a.is_cpu() && b.is_cpu() &&
         a.scalar_type() == at::kFloat && b.scalar_type() == at::kFloat && mkl_lacks_avx512();
}

void multiply_by_onednn(const Tensor& out, const Tensor& a, const Tensor& b, bool add) {
#if defined(__x86_64__) && defined(__linux__)
  at::native::mkldnn_matmul(a, b, out, add ? 1.0f : 0.0f, 1.0f);
#endif
}

// Computes x weightᵀ + bias by oneDNN: x (…, inputs), weight (outputs, inputs), bias (outputs).
Tensor linear_by_onednn(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
  using Linear = Tensor(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                        std::string_view activation, c10::List<std::optional<at::Scalar>> scalars,
                        std::optional<std::string_view> algorithm);
  static const auto pointwise = op<Linear>("mkldnn::_linear_pointwise");
  return pointwise.call(x, weight, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

}  // namespace

Tensor linear_layer(const Tensor& x, const Tensor& weight, const Tensor& bias_) {
  const OptionalTensor bias = optional(bias_);
  return by_onednn(x, weight, x.numel() * weight.size(0)) ? linear_by_onednn(x, weight, bias)
                                                          : at::linear(x, weight, bias);
}

LinearGradients linear_gradients(const Tensor& x, const Tensor& weight, const Tensor& dout_,
                                 std::array<bool, 3> needed) {
  const Tensor dout = dout_.flatten(0, -2);
  LinearGradients gradients;
  if (needed[0]) {
    auto shape = dout_.sizes().vec();
    shape.back() = weight.size(1);
    gradients.x = at::empty(shape, dout.options());
    multiply_matrices(gradients.x.flatten(0, -2), dout, weight);
  }
  if (needed[1]) {
    gradients.weight = at::empty({dout.size(1), x.size(-1)}, dout.options());
    multiply_matrices(gradients.weight, dout.t(), x.flatten(0, -2));
  }
  if (needed[2]) gradients.bias = dout.sum(0);
  return gradients;
}

namespace {

struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const OptionalTensor& bias) {
    at::AutoDispatchBelowADInplaceOrView guard;
    // Each is for the gradient of the other.
    context->save_for_backward({weight.requires_grad() ? x : Tensor(),
                                x.requires_grad() ? weight : Tensor()});
    context->saved_data["has_bias"] = bias.has_value();
    return linear_layer(x, weight, bias.value_or(Tensor()));
  }

  static variable_list backward(AutogradContext* context, const variable_list& douts) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(),
                                "linear: double backward is not implemented");
    const auto saved = context->get_saved_variables();
    const auto needs = [&](size_t i) { return context->needs_input_grad(i); };
    const bool has_bias = context->saved_data["has_bias"].toBool();
    const auto g = linear_gradients(saved[0], saved[1], douts[0],
                                    {needs(0), needs(1), has_bias && needs(2)});
    return {g.x, g.weight, g.bias};
  }
};

}  // namespace

void multiply_matrices(const Tensor& out, const Tensor& a, const Tensor& b, bool add) {
  if (by_onednn(a, b, a.size(0) * a.size(1) * b.size(1))) {
    multiply_by_onednn(out, a, b, add);
  } else if (add) {
    out.addmm_(a, b);
  } else {
    Tensor target = out;
    at::mm_out(target, a, b);
  }
}

}  // namespace vmb

char* vmb_linear(const void* x_, const void* weight_, const void* bias_, void** out) {
  return vmb::guarded([&] {
    const at::Tensor &x = vmb::tensor(x_), &weight = vmb::tensor(weight_),
                     bias = vmb::tensor_or_undefined(bias_);
    *out = nullptr;
    // Autocast multiplies in another type; launches are counted as on a GPU.
    if (vmb::launch_counter || at::autocast::is_autocast_enabled(at::kCPU) || x.dim() < 2 ||
        weight.dim() != 2 || x.size(-1) != weight.size(1) ||
        !vmb::by_onednn(x, weight, x.numel() * weight.size(0)))
      return;
    if (vmb::records_gradients("linear", {x, weight, bias})) {
      *out = new at::Tensor(vmb::LinearFunction::apply(x, weight, vmb::optional(bias)));
      return;
    }
    at::AutoDispatchBelowADInplaceOrView guard;
    *out = new at::Tensor(vmb::linear_layer(x, weight, bias));
  });
}
