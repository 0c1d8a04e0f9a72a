// A transformer's MLP in float32 and float64 on the CPU, as one node of autograd:
//
//   out = fc2 gelu(fc1 x + b1) + b2
//
// It saves its input and the hidden layer before GELU; backward computes GELU's result again in the
// pass that computes its gradient.
#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "abi.h"
#include "border.h"
#include "dispatch.h"
#include "launches.h"
#include "linear.h"
#include "scan_inputs.h"

namespace vmb {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Elements of one task.
constexpr int64_t kGeluElements = 1 << 15;

Tensor gelu(const Tensor& x, bool quick) {
  const Tensor out = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "gelu", [&] {
    const GeluForwardArgs<scalar_t> args{quick, x.const_data_ptr<scalar_t>(),
                                         out.mutable_data_ptr<scalar_t>()};
    const auto& table = kernels<scalar_t>("auto");
    at::parallel_for(0, x.numel(), kGeluElements, [&](int64_t begin, int64_t end) {
      table.gelu_forward(args, begin, end);
    });
  });
  return out;
}

// Returns the result of GELU, and replaces the gradient of the result by that of x.
Tensor gelu_backward(const Tensor& x, const Tensor& gradient, bool quick) {
  const Tensor out = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "gelu_backward", [&] {
    scalar_t* const dx = gradient.mutable_data_ptr<scalar_t>();
    const GeluBackwardArgs<scalar_t> args{quick, x.const_data_ptr<scalar_t>(), dx,
                                          out.mutable_data_ptr<scalar_t>(), dx};
    const auto& table = kernels<scalar_t>("auto");
    at::parallel_for(0, x.numel(), kGeluElements, [&](int64_t begin, int64_t end) {
      table.gelu_backward(args, begin, end);
    });
  });
  return out;
}

struct MlpFunction : torch::autograd::Function<MlpFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight1,
                        const Tensor& weight2, const OptionalTensor& bias1,
                        const OptionalTensor& bias2, bool quick) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor hidden = linear_layer(x, weight1, bias1.value_or(Tensor()));
    context->save_for_backward({x, hidden, weight1, weight2});
    context->saved_data["quick"] = quick;
    context->saved_data["bias1"] = bias1.has_value();
    context->saved_data["bias2"] = bias2.has_value();
    return linear_layer(gelu(hidden, quick), weight2, bias2.value_or(Tensor()));
  }

  static variable_list backward(AutogradContext* context, const variable_list& douts) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(),
                                "mlp: double backward is not implemented");
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &hidden = saved[1], &weight1 = saved[2], &weight2 = saved[3];
    const auto is = [&](const char* name) { return context->saved_data[name].toBool(); };
    // Autograd does not number the biases that are absent.
    const auto needs = [&](size_t i) { return context->needs_input_grad(i); };
    const bool needs_bias1 = is("bias1") && needs(3),
               needs_bias2 = is("bias2") && needs(is("bias1") ? 4 : 3),
               needs_hidden = needs(0) || needs(1) || needs_bias1;
    // Together, whether both are needed or not: it is rare that parts of an MLP are frozen.
    const Tensor dhidden = linear_gradients({}, weight2, douts[0], {true, false, false}).x,
                 activated = gelu_backward(hidden, dhidden, is("quick"));
    const auto second =
        linear_gradients(activated, weight2, douts[0], {false, needs(2), needs_bias2});
    LinearGradients first;
    if (needs_hidden)
      first = linear_gradients(x, weight1, dhidden, {needs(0), needs(1), needs_bias1});
    return {first.x, first.weight, second.weight, first.bias, second.bias, Tensor()};
  }
};

bool mlp_has_kernels(const Tensor& x, const Tensor& weight1, const Tensor& bias1,
                     const Tensor& weight2, const Tensor& bias2) {
  const auto type = x.scalar_type();
  // Autocast computes in another type; launches are counted as on a GPU.
  if (launch_counter || at::autocast::is_autocast_enabled(at::kCPU) || !x.is_cpu() ||
      (type != at::kFloat && type != at::kDouble) || x.dim() < 2 || x.numel() == 0)
    return false;
  for (const Tensor& t : {weight1, bias1, weight2, bias2})
    if (t.defined() && (!t.is_cpu() || t.scalar_type() != type)) return false;
  // libtorch's own says what does not fit.
  const auto fits = [](const Tensor& weight, int64_t inputs, const Tensor& bias) {
    return weight.dim() == 2 && weight.size(1) == inputs &&
           (!bias.defined() || bias.sizes() == weight.sizes().slice(0, 1));
  };
  return fits(weight1, x.size(-1), bias1) && fits(weight2, weight1.size(0), bias2);
}

}  // namespace
}  // namespace vmb

char* vmb_mlp(const void* x_, const void* weight1_, const void* bias1_, const void* weight2_,
              const void* bias2_, int quick_gelu, void** out) {
  return vmb::guarded([&] {
    const at::Tensor &x = vmb::tensor(x_), &weight1 = vmb::tensor(weight1_),
                     &weight2 = vmb::tensor(weight2_);
    const at::Tensor bias1 = vmb::tensor_or_undefined(bias1_),
                     bias2 = vmb::tensor_or_undefined(bias2_);
    const bool quick = quick_gelu != 0;
    *out = nullptr;
    if (!vmb::mlp_has_kernels(x, weight1, bias1, weight2, bias2)) return;
    if (vmb::records_gradients("mlp", {x, weight1, bias1, weight2, bias2})) {
      *out = new at::Tensor(vmb::MlpFunction::apply(x, weight1, weight2, vmb::optional(bias1),
                                                     vmb::optional(bias2), quick));
      return;
    }
    at::AutoDispatchBelowADInplaceOrView guard;
    const at::Tensor hidden = vmb::gelu(vmb::linear_layer(x, weight1, bias1), quick);
    *out = new at::Tensor(vmb::linear_layer(hidden, weight2, bias2));
  });
}
