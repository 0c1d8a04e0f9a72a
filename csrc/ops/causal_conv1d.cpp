// vm_beautynet::causal_conv1d_silu: the depthwise causal convolution in front of the scan, with its
// SiLU.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "border.h"
#include "cuda/cuda_ops.h"
#include "dispatch.h"
#include "launches.h"
#include "scan_inputs.h"

namespace vmb {
namespace {

using at::Tensor;

void check_arguments(const ConvInputs& in) {
  const Tensor &x = in.x, &weight = in.weight, &bias = in.bias;
  TORCH_CHECK_VALUE(x.dim() == 3,
                    "causal_conv1d_silu: x must have shape (batch, dim, length), has ", x.sizes());
  TORCH_CHECK_VALUE(weight.dim() == 3 && weight.size(0) == x.size(1) && weight.size(1) == 1 &&
                        weight.size(2) >= 1 && weight.size(2) <= kMaxConvWidth,
                    "causal_conv1d_silu: weight must have shape (dim, 1, width) = [", x.size(1),
                    ", 1, 1..", kMaxConvWidth, "], has ", weight.sizes());
  if (bias.defined())
    TORCH_CHECK_VALUE(bias.dim() == 1 && bias.size(0) == x.size(1),
                      "causal_conv1d_silu: bias must have shape (dim) = [", x.size(1), "], has ",
                      bias.sizes());
  for (const Tensor& t : {x, weight, bias}) {
    if (!t.defined()) continue;
    TORCH_CHECK_TYPE(at::isFloatingType(t.scalar_type()),
                     "causal_conv1d_silu: inputs must be floating point, one is ", t.scalar_type());
    TORCH_CHECK_VALUE(t.device() == x.device(), "causal_conv1d_silu: weight or bias is on ",
                      t.device(), ", x is on ", x.device());
  }
}

// The operands of all convolutions in the type that kernels compute in. x is converted once.
std::vector<ConvInputs> cast(Convs convs) {
  const auto type = compute_type(convs[0].x);
  std::vector<ConvInputs> all;
  for (const ConvInputs& in : convs)
    all.push_back({all.empty() ? in.x.to(type) : all[0].x, in.weight.to(type),
                   in.bias.defined() ? in.bias.to(type).contiguous() : in.bias, in.reverse});
  return all;
}

// The operands, cast to T, as the kernels see them.
template <class T>
ConvArgs<T> kernel_args(const ConvInputs& in) {
  return {in.x.size(0),
          in.x.size(1),
          in.x.size(2),
          in.weight.size(2),
          view_of<const T>(in.x, in.reverse),
          {in.weight.const_data_ptr<T>(), 0, in.weight.stride(0), in.weight.stride(2)},
          data_of<T>(in.bias)};
}

Tensor conv_forward_cpu(Convs operands, std::string_view path) {
  const Tensor& x = operands[0].x;
  const auto convs = cast(operands);
  const auto type = convs[0].x.scalar_type();
  const Tensor out = empty_stack_in_layout_of(x, convs.size(), type);
  AT_DISPATCH_FLOATING_TYPES(type, "causal_conv1d_silu", [&] {
    const auto& table = kernels<scalar_t>(path);
    std::vector<ConvForwardArgs<scalar_t>> all;
    for (const ConvInputs& in : convs)
      all.push_back({kernel_args<scalar_t>(in), view_of<scalar_t>(out[all.size()], in.reverse)});
    if (out.numel() > 0)
      parallel_problems(all[0].in.items(), table.conv_workspace, table.conv_forward, all);
  });
  return out.to(x.scalar_type());
}

void conv_backward_cpu(Convs operands, const Tensor& dout_, ConvGradients& gradients,
                       std::string_view path) {
  const auto convs = cast(operands);
  const Tensor &x = convs[0].x, &weight = convs[0].weight;
  const auto type = x.scalar_type();
  const int64_t count = convs.size(), batch = x.size(0), dim = x.size(1), width = weight.size(2);
  const Tensor dout = dout_.to(type), dx = writable_as(gradients.dx, type);
  const Tensor dweight = at::zeros({count, batch, dim, 1, width}, x.options());
  const Tensor dbias = at::zeros({count, batch, dim}, x.options());
  if (x.numel() > 0)
    AT_DISPATCH_FLOATING_TYPES(type, "causal_conv1d_silu_backward", [&] {
      const auto& table = kernels<scalar_t>(path);
      std::vector<ConvBackwardArgs<scalar_t>> all;
      for (const ConvInputs& in : convs) {
        const int64_t i = all.size();
        all.push_back({kernel_args<scalar_t>(in), view_of<const scalar_t>(dout[i], in.reverse),
                       view_of<scalar_t>(dx, in.reverse), /*add_dx=*/i > 0,
                       dweight[i].mutable_data_ptr<scalar_t>(),
                       dbias[i].mutable_data_ptr<scalar_t>()});
      }
      parallel_problems(all[0].in.items(), table.conv_workspace, table.conv_backward, all);
    });
  copy_back(gradients.dx, dx);
  gradients.dweight = ordered_sum(dweight);
  gradients.dbias = ordered_sum(dbias);
}

}  // namespace

Tensor conv_forward(Convs convs, std::string_view path) {
  return on_device_of(
      convs[0].x, [&] { return conv_forward_cuda(convs); },
      [&] { return conv_forward_cpu(convs, path); });
}

void conv_backward(Convs convs, const Tensor& dout, ConvGradients& gradients,
                   std::string_view path) {
  on_device_of(
      convs[0].x, [&] { conv_backward_cuda(convs, dout, gradients); },
      [&] { conv_backward_cpu(convs, dout, gradients, path); });
}

namespace {

Tensor conv_meta(const ConvInputs& in, std::string_view) {
  check_arguments(in);
  return empty_in_layout_of(in.x, in.x.scalar_type());
}

}  // namespace

// The same in ATen operations, for devices without kernels.
Tensor conv_eager(const ConvInputs& in) {
  check_arguments(in);
  const auto type = in.x.scalar_type();
  const int64_t back = in.weight.size(2) - 1;
  const Tensor x = at::constant_pad_nd(in.reverse ? in.x.flip(2) : in.x, {back, 0});
  const OptionalTensor bias = in.bias.defined() ? OptionalTensor(in.bias.to(type)) : std::nullopt;
  const Tensor out = at::silu(at::conv1d(x, in.weight.to(type), bias, at::IntArrayRef{1},
                                         at::IntArrayRef{0}, at::IntArrayRef{1}, x.size(1)));
  return in.reverse ? out.flip(2) : out;
}

namespace {

// On whichever device has kernels, else in ATen operations.
Tensor conv(const ConvInputs& in, std::string_view path) {
  if (!has_kernels(in.x)) return conv_eager(in);
  check_arguments(in);
  return conv_forward(in, path)[0];
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ConvFunction : torch::autograd::Function<ConvFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const OptionalTensor& bias, bool reverse, const std::string& path) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const ConvInputs in{x, weight, bias.value_or(Tensor()), reverse};
    context->save_for_backward({in.x, in.weight, in.bias});
    context->saved_data["reverse"] = reverse;
    context->saved_data["path"] = path;
    return conv(in, path);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto s = context->get_saved_variables();
    if (!gradients[0].defined()) return variable_list(5);
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(),
                                "causal_conv1d_silu: double backward is not implemented");
    const ConvInputs in{s[0], s[1], s[2], context->saved_data["reverse"].toBool()};
    ConvGradients g;
    g.dx = empty_in_layout_of(in.x, in.x.scalar_type());
    conv_backward(in, gradients[0].unsqueeze(0), g, context->saved_data["path"].toStringRef());
    variable_list result{g.dx, g.dweight[0].to(in.weight.scalar_type()),
                         in.bias.defined() ? g.dbias[0].to(in.bias.scalar_type()) : Tensor()};
    result.resize(5);  // the flags have no gradient
    return result;
  }
};

Tensor conv_autograd(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                     bool reverse, std::string_view path) {
  const ConvInputs in{x, weight, bias.value_or(Tensor()), reverse};
  if (x.is_meta()) return conv_meta(in, path);
  if (!has_kernels(x)) return conv_eager(in);
  if (!records_gradients("causal_conv1d_silu", {in.x, in.weight, in.bias})) {
    static const auto inner = op<decltype(conv_autograd)>("vm_beautynet::causal_conv1d_silu");
    at::AutoDispatchBelowADInplaceOrView guard;
    return inner.call(x, weight, bias, reverse, path);
  }
  return ConvFunction::apply(x, weight, bias, reverse, std::string(path));
}

// f as a function of the argument list, for registration.
template <Tensor (*f)(const ConvInputs&, std::string_view)>
Tensor unpacked(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, bool reverse,
                std::string_view path) {
  return f({x, weight, bias.value_or(Tensor()), reverse}, path);
}

}  // namespace
}  // namespace vmb

TORCH_LIBRARY_IMPL(vm_beautynet, CPU, m) {
  m.impl("causal_conv1d_silu", vmb::unpacked<&vmb::conv>);
}
TORCH_LIBRARY_IMPL(vm_beautynet, CUDA, m) {
  m.impl("causal_conv1d_silu", vmb::unpacked<&vmb::conv>);
}
TORCH_LIBRARY_IMPL(vm_beautynet, Meta, m) {
  m.impl("causal_conv1d_silu", vmb::unpacked<&vmb::conv_meta>);
}
TORCH_LIBRARY_IMPL(vm_beautynet, Autograd, m) { m.impl("causal_conv1d_silu", vmb::conv_autograd); }
