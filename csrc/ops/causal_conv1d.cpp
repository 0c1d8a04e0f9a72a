// vm_beautynet::causal_conv1d_silu: the depthwise causal convolution in front of the scan, with its
// SiLU.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "cuda/cuda_ops.h"
#include "dispatch.h"
#include "launches.h"

namespace vmb {
namespace {

using at::Tensor;

void check_arguments(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
  TORCH_CHECK_VALUE(x.dim() == 3,
                    "causal_conv1d_silu: x must have shape (batch, dim, length), has ", x.sizes());
  TORCH_CHECK_VALUE(weight.dim() == 3 && weight.size(0) == x.size(1) && weight.size(1) == 1 &&
                        weight.size(2) >= 1 && weight.size(2) <= kMaxConvWidth,
                    "causal_conv1d_silu: weight must have shape (dim, 1, width) = [", x.size(1),
                    ", 1, 1..", kMaxConvWidth, "], has ", weight.sizes());
  if (bias && bias->defined())
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == x.size(1),
                      "causal_conv1d_silu: bias must have shape (dim) = [", x.size(1), "], has ",
                      bias->sizes());
  for (const Tensor& t : {x, weight, value_or_undefined(bias)}) {
    if (!t.defined()) continue;
    TORCH_CHECK_TYPE(at::isFloatingType(t.scalar_type()),
                     "causal_conv1d_silu: inputs must be floating point, one is ", t.scalar_type());
    TORCH_CHECK_VALUE(t.device() == x.device(), "causal_conv1d_silu: weight or bias is on ",
                      t.device(), ", x is on ", x.device());
  }
}

struct Operands {
  Tensor x, weight, bias;
  Operands(const Tensor& x_, const Tensor& weight_, const OptionalTensor& bias_)
      : x(x_.to(compute_type(x_))),
        weight(weight_.to(x.scalar_type())),
        bias(optional_to(bias_, x.scalar_type())) {
    if (bias.defined()) bias = bias.contiguous();
  }
  template <class T>
  ConvArgs<T> args(bool reverse) const {
    return {x.size(0),
            x.size(1),
            x.size(2),
            weight.size(2),
            view_of<const T>(x, reverse),
            {weight.const_data_ptr<T>(), 0, weight.stride(0), weight.stride(2)},
            bias.defined() ? bias.const_data_ptr<T>() : nullptr};
  }
};

Tensor forward_cpu(const Tensor& x_, const Tensor& weight, const OptionalTensor& bias, bool reverse,
                   std::string_view path) {
  const Operands x(x_, weight, bias);
  Tensor out = empty_in_layout_of(x_, x.x.scalar_type());
  if (out.numel() == 0) return out.to(x_.scalar_type());
  AT_DISPATCH_FLOATING_TYPES(x.x.scalar_type(), "causal_conv1d_silu", [&] {
    const auto& table = kernels<scalar_t>(path);
    const auto args = x.args<scalar_t>(reverse);
    const auto target = view_of<scalar_t>(out, reverse);
    parallel_items(args.items(), table.conv_workspace,
                   [&](int64_t begin, int64_t end, void* workspace) {
                     table.conv_forward(args, target, begin, end, workspace);
                   });
  });
  return out.to(x_.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> backward_cpu(const Tensor& dout_, const Tensor& x_,
                                                const Tensor& weight, const OptionalTensor& bias,
                                                bool reverse, std::string_view path) {
  const Operands x(x_, weight, bias);
  const auto type = x.x.scalar_type();
  const Tensor dout = dout_.to(type);
  Tensor dx = empty_in_layout_of(x_, type);
  Tensor dweight = at::zeros({x_.size(0), weight.size(0), weight.size(2)}, x.x.options());
  Tensor dbias = at::zeros({x_.size(0), weight.size(0)}, x.x.options());
  if (x_.numel() > 0)
    AT_DISPATCH_FLOATING_TYPES(type, "causal_conv1d_silu_backward", [&] {
      const auto& table = kernels<scalar_t>(path);
      ConvBackwardArgs<scalar_t> args{
          x.args<scalar_t>(reverse), view_of<const scalar_t>(dout, reverse),
          view_of<scalar_t>(dx, reverse), dweight.mutable_data_ptr<scalar_t>(),
          dbias.mutable_data_ptr<scalar_t>()};
      parallel_items(args.in.items(), table.conv_workspace,
                     [&](int64_t begin, int64_t end, void* workspace) {
                       table.conv_backward(args, begin, end, workspace);
                     });
    });
  return {dx.to(x_.scalar_type()), ordered_sum(dweight).unsqueeze(1).to(weight.scalar_type()),
          x.bias.defined() ? ordered_sum(dbias).to(bias->scalar_type()) : Tensor()};
}

Tensor conv_meta(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, bool,
                 std::string_view) {
  check_arguments(x, weight, bias);
  return empty_in_layout_of(x, x.scalar_type());
}

// The same in ATen operations, for devices without kernels.
Tensor conv_eager(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, bool reverse) {
  check_arguments(x, weight, bias);
  const int64_t back = weight.size(2) - 1;
  const Tensor input = reverse ? x.flip(2) : x;
  const Tensor out =
      at::silu(at::conv1d(at::constant_pad_nd(input, {back, 0}), weight, bias, at::IntArrayRef{1},
                          at::IntArrayRef{0}, at::IntArrayRef{1}, x.size(1)));
  return reverse ? out.flip(2) : out;
}

// On whichever device has kernels, else in ATen operations.
Tensor conv(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, bool reverse,
            std::string_view path) {
  if (!has_kernels(x)) return conv_eager(x, weight, bias, reverse);
  check_arguments(x, weight, bias);
  return on_device_of(
      x, [&] { return conv_forward_cuda(ConvInputs{x, weight, bias, reverse})[0]; },
      [&] { return forward_cpu(x, weight, bias, reverse, path); });
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ConvFunction : torch::autograd::Function<ConvFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const OptionalTensor& bias, bool reverse, const std::string& path) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({x, weight, value_or_undefined(bias)});
    context->saved_data["reverse"] = reverse;
    context->saved_data["path"] = path;
    return conv(x, weight, bias, reverse, path);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto s = context->get_saved_variables();
    if (!gradients[0].defined()) return variable_list(5);
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(),
                                "causal_conv1d_silu: double backward is not implemented");
    const bool reverse = context->saved_data["reverse"].toBool();
    auto [dx, dweight, dbias] = on_device_of(
        s[0],
        [&] { return conv_backward_cuda(ConvInputs{s[0], s[1], s[2], reverse}, gradients[0])[0]; },
        [&] {
          return backward_cpu(gradients[0], s[0], s[1], s[2], reverse,
                              context->saved_data["path"].toStringRef());
        });
    variable_list result{dx, dweight, dbias};
    result.resize(5);  // the flags have no gradient
    return result;
  }
};

Tensor conv_autograd(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                     bool reverse, std::string_view path) {
  if (x.is_meta()) return conv_meta(x, weight, bias, reverse, path);
  if (!has_kernels(x)) return conv_eager(x, weight, bias, reverse);
  return ConvFunction::apply(x, weight, bias, reverse, std::string(path));
}

}  // namespace
}  // namespace vmb

TORCH_LIBRARY_IMPL(vm_beautynet, CPU, m) { m.impl("causal_conv1d_silu", vmb::conv); }
TORCH_LIBRARY_IMPL(vm_beautynet, CUDA, m) { m.impl("causal_conv1d_silu", vmb::conv); }
TORCH_LIBRARY_IMPL(vm_beautynet, Meta, m) { m.impl("causal_conv1d_silu", vmb::conv_meta); }
TORCH_LIBRARY_IMPL(vm_beautynet, Autograd, m) { m.impl("causal_conv1d_silu", vmb::conv_autograd); }
