// vm_beautynet::selective_scan: checks, CPU kernels, autograd, meta, and the eager formulation for
// devices without kernels.
//
// Mamba, arXiv 2312.00752, algorithm 2, with the discretization of its published code. For every
// batch b, channel d and state n:
//
//   dt_l = softplus(delta_l + delta_bias)
//   h_l  = exp(dt_l A) h_{l-1} + dt_l u_l B_l
//   y_l  = C_l . h_l + D u_l
//   out_l = y_l silu(z_l)
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>

#include "cuda/cuda_ops.h"
#include "dispatch.h"
#include "launches.h"
#include "scan_inputs.h"

namespace vmb {
namespace {

using at::Tensor;

constexpr int64_t kMaxState = 256;

void check_tensor(const Tensor& x, const char* name, at::IntArrayRef shape, const char* meaning,
                  const Tensor& u) {
  TORCH_CHECK_VALUE(x.sizes() == shape, "selective_scan: ", name, " must have shape ", meaning,
                    " = ", shape, ", has ", x.sizes());
  TORCH_CHECK_TYPE(at::isFloatingType(x.scalar_type()), "selective_scan: ", name,
                   " must be floating point, is ", x.scalar_type());
  TORCH_CHECK_VALUE(x.device() == u.device(), "selective_scan: ", name, " is on ", x.device(),
                    ", u is on ", u.device());
}

void check_operands(const ScanInputs& x) {
  const Tensor &u = x.u, &A = x.A;
  TORCH_CHECK_VALUE(u.dim() == 3, "selective_scan: u must have shape (batch, dim, length), has ",
                    u.sizes());
  TORCH_CHECK_VALUE(A.dim() == 2, "selective_scan: A must have shape (dim, state), has ",
                    A.sizes());
  const int64_t batch = x.batch(), dim = x.dim(), length = x.length(), state = x.state();
  TORCH_CHECK_VALUE(state >= 1 && state <= kMaxState,
                    "selective_scan: the state size (A's second dimension) must be 1 to ",
                    kMaxState, ", is ", state);
  check_tensor(u, "u", {batch, dim, length}, "(batch, dim, length)", u);
  check_tensor(x.delta, "delta", {batch, dim, length}, "u's (batch, dim, length)", u);
  check_tensor(A, "A", {dim, state}, "(dim, state)", u);
  check_tensor(x.B, "B", {batch, state, length}, "(batch, state, length)", u);
  check_tensor(x.C, "C", {batch, state, length}, "(batch, state, length)", u);
  if (x.D.defined()) check_tensor(x.D, "D", {dim}, "(dim)", u);
  if (x.z.defined()) check_tensor(x.z, "z", {batch, dim, length}, "u's (batch, dim, length)", u);
  if (x.delta_bias.defined()) check_tensor(x.delta_bias, "delta_bias", {dim}, "(dim)", u);
}

// The operands, cast to T, as the kernels see them.
template <class T>
ScanArgs<T> kernel_args(const ScanInputs& x) {
  const auto pointer = [](const Tensor& t) {
    return t.defined() ? t.const_data_ptr<T>() : nullptr;
  };
  ScanArgs<T> args;
  args.size = {x.batch(), x.dim(), x.length(), x.state()};
  args.u = view_of<const T>(x.u, x.reverse), args.delta = view_of<const T>(x.delta, x.reverse);
  args.z = view_of<const T>(x.z, x.reverse);
  args.B = view_of<const T>(x.B, x.reverse), args.C = view_of<const T>(x.C, x.reverse);
  args.A = {x.A.const_data_ptr<T>(), 0, x.A.stride(0), x.A.stride(1)};
  args.D = pointer(x.D), args.delta_bias = pointer(x.delta_bias);
  args.delta_softplus = x.delta_softplus;
  return args;
}

ScanResult forward_cpu(const ScanInputs& operands, bool keep_states, std::string_view path) {
  const auto type = compute_type(operands.u);
  const ScanInputs x = operands.cast(type, type);
  Tensor out = empty_in_layout_of(operands.u, type);
  Tensor states = at::empty({0}, x.u.options());
  AT_DISPATCH_FLOATING_TYPES(type, "selective_scan", [&] {
    const auto& table = kernels<scalar_t>(path);
    ScanForwardArgs<scalar_t> args{kernel_args<scalar_t>(x), view_of<scalar_t>(out, x.reverse),
                                   nullptr};
    const ScanSizes& size = args.in.size;
    if (keep_states) {
      states = at::empty({size.checkpoint_elements()}, x.u.options());
      args.checkpoints = states.mutable_data_ptr<scalar_t>();
    }
    if (out.numel() > 0)
      parallel_items(size.items(), table.scan_workspace(size),
                     [&](int64_t begin, int64_t end, void* workspace) {
                       table.scan_forward(args, begin, end, workspace);
                     });
  });
  return {out.to(operands.u.scalar_type()), states};
}

ScanGradients backward_cpu(const ScanInputs& operands, const Tensor& states, const Tensor& dout_,
                           std::string_view path) {
  const auto type = compute_type(operands.u);
  const ScanInputs x = operands.cast(type, type);
  const auto options = x.u.options();
  const Tensor dout = dout_.to(type);
  const int64_t batch = x.batch(), dim = x.dim(), length = x.length(), state = x.state();
  Tensor du = empty_in_layout_of(operands.u, type);
  Tensor ddelta = empty_in_layout_of(operands.delta, type);
  Tensor dz = x.z.defined() ? empty_in_layout_of(x.z, type) : Tensor();
  const int64_t groups = ScanSizes{batch, dim, length, state}.groups();
  Tensor dA = at::empty({batch, dim, state}, options);
  Tensor dD = at::empty({batch, dim}, options), dbias = at::empty({batch, dim}, options);
  // One slot per (batch, group); states innermost, as the kernels write them.
  Tensor dB = at::empty({batch * groups, length, state}, options), dC = at::empty_like(dB);
  if (x.u.numel() == 0) {
    for (Tensor* t : {&dA, &dD, &dbias, &dB, &dC}) t->zero_();
  } else {
    AT_DISPATCH_FLOATING_TYPES(type, "selective_scan_backward", [&] {
      const auto& table = kernels<scalar_t>(path);
      const auto view = [&](const Tensor& t) { return view_of<scalar_t>(t, x.reverse); };
      ScanBackwardArgs<scalar_t> args;
      args.in = kernel_args<scalar_t>(x);
      args.dout = view_of<const scalar_t>(dout, x.reverse);
      args.checkpoints = states.const_data_ptr<scalar_t>();
      args.du = view(du), args.ddelta = view(ddelta), args.dz = view(dz);
      args.dA = dA.mutable_data_ptr<scalar_t>(), args.dD = dD.mutable_data_ptr<scalar_t>();
      args.ddelta_bias = dbias.mutable_data_ptr<scalar_t>();
      args.dB = view(dB.transpose(1, 2)), args.dC = view(dC.transpose(1, 2));
      parallel_items(args.in.size.items(), table.scan_workspace(args.in.size),
                     [&](int64_t begin, int64_t end, void* workspace) {
                       table.scan_backward(args, begin, end, workspace);
                     });
    });
  }
  const auto over_groups = [&](const Tensor& partials, const Tensor& like) {
    if (x.u.numel() == 0) return at::zeros({batch, state, length}, like.options());
    return ordered_sum(partials.view({batch, groups, length, state}).transpose(0, 1))
        .transpose(1, 2)
        .to(like.scalar_type());
  };
  const auto over_batch = [](const Tensor& partials, const Tensor& like) {
    return like.defined() ? ordered_sum(partials).to(like.scalar_type()) : Tensor();
  };
  return {du.to(operands.u.scalar_type()),
          ddelta.to(operands.delta.scalar_type()),
          over_batch(dA, operands.A),
          over_groups(dB, operands.B),
          over_groups(dC, operands.C),
          over_batch(dD, operands.D),
          dz.defined() ? dz.to(operands.z.scalar_type()) : dz,
          over_batch(dbias, operands.delta_bias)};
}

// On whichever device has kernels.
ScanResult forward(const ScanInputs& x, bool keep_states, std::string_view path) {
  check_operands(x);
  return on_device_of(
      x.u, [&] { return scan_forward_cuda(x, keep_states)[0]; },
      [&] { return forward_cpu(x, keep_states, path); });
}

Tensor scan_meta(const ScanInputs& x, std::string_view) {
  check_operands(x);
  return empty_in_layout_of(x.u, x.u.scalar_type());
}

// The recurrence in ATen operations, differentiable by autograd: (length, batch, dim, state)
// tensors are built at once, unbound along the length once, and the outputs stacked at the end. The
// baseline of the benchmark, and the fallback elsewhere; README.md says which other formulations
// were slower.
Tensor scan_eager(const ScanInputs& x) {
  check_operands(x);
  const auto type = compute_type(x.u);
  const Tensor u = x.u.to(type);
  Tensor dt = x.delta.to(type);
  if (x.delta_bias.defined()) dt = dt + x.delta_bias.to(type).unsqueeze(-1);
  if (x.delta_softplus) dt = at::softplus(dt);
  const auto length_first = [](const Tensor& t) { return t.permute({2, 0, 1}); };
  const Tensor steps = length_first(dt).contiguous();  // (l, b, d)
  // l x (b, d, n)
  const auto decay = at::exp(steps.unsqueeze(-1) * x.A.to(type)).unbind(0);
  const Tensor B = length_first(x.B.to(type)).unsqueeze(2);
  const auto input = ((steps * length_first(u)).unsqueeze(-1) * B).unbind(0);
  // l x (b, n, 1)
  const auto readout = length_first(x.C.to(type)).unsqueeze(-1).contiguous().unbind(0);
  const int64_t length = x.length();
  std::vector<Tensor> outputs(length);
  Tensor h = at::zeros({x.batch(), x.dim(), x.state()}, u.options());
  for (int64_t i = 0; i < length; ++i) {
    const int64_t l = x.reverse ? length - 1 - i : i;
    h = at::addcmul(input[l], decay[l], h);
    outputs[l] = at::bmm(h, readout[l]).squeeze(-1);
  }
  Tensor y = length > 0 ? at::stack(outputs, 2) : at::zeros_like(u);
  if (x.D.defined()) y = y + u * x.D.to(type).unsqueeze(-1);
  if (x.z.defined()) y = y * at::silu(x.z.to(type));
  return y.to(x.u.scalar_type());
}

Tensor scan(const ScanInputs& x, std::string_view path) {
  return has_kernels(x.u) ? std::get<0>(forward(x, false, path)) : scan_eager(x);
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ScanFunction : torch::autograd::Function<ScanFunction> {
  // Autograd connects the tensors of the list only: those of x that are given.
  static Tensor forward(AutogradContext* context, at::TensorList, const ScanInputs& x,
                        const std::string& path) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [out, states] = vmb::forward(x, /*keep_states=*/true, path);
    const auto tensors = x.tensors();
    variable_list saved(tensors.begin(), tensors.end());
    saved.push_back(states);
    context->save_for_backward(std::move(saved));
    context->saved_data["delta_softplus"] = x.delta_softplus;
    context->saved_data["reverse"] = x.reverse;
    context->saved_data["path"] = path;
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& douts) {
    const auto s = context->get_saved_variables();
    const ScanInputs x{s[0],
                       s[1],
                       s[2],
                       s[3],
                       s[4],
                       s[5],
                       s[6],
                       s[7],
                       context->saved_data["delta_softplus"].toBool(),
                       context->saved_data["reverse"].toBool()};
    // Under create_graph the result would need a derivative of its own; without one it would be
    // silently wrong.
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(),
                                "selective_scan: double backward is not implemented; use "
                                "selective_scan_eager where create_graph is needed");
    ScanGradients gradients = on_device_of(
        x.u, [&] { return scan_backward_cuda(x, s[8], douts[0])[0]; },
        [&] { return backward_cpu(x, s[8], douts[0], context->saved_data["path"].toStringRef()); });
    // One for each tensor of the list, then none for x and path.
    gradients.erase(std::remove_if(gradients.begin(), gradients.end(),
                                   [](const Tensor& t) { return !t.defined(); }),
                    gradients.end());
    gradients.resize(gradients.size() + 2);
    return gradients;
  }
};

Tensor scan_autograd(const ScanInputs& x, std::string_view path) {
  if (x.u.is_meta()) return scan_meta(x, path);
  if (!has_kernels(x.u)) return scan_eager(x);
  variable_list given;
  for (const Tensor& t : x.tensors())
    if (t.defined()) given.push_back(t);
  const bool wants_gradients =
      at::GradMode::is_enabled() && torch::autograd::any_variable_requires_grad(given);
  if (!wants_gradients) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return scan(x, path);
  }
  return ScanFunction::apply(at::TensorList(given), x, std::string(path));
}

}  // namespace
}  // namespace vmb

TORCH_LIBRARY(vm_beautynet, m) {
  m.def(
      "selective_scan(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D=None, "
      "Tensor? z=None, Tensor? delta_bias=None, bool delta_softplus=False, bool reverse=False, "
      "str path=\"auto\") -> Tensor");
  m.def(
      "selective_scan_eager(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, "
      "Tensor? D=None, Tensor? z=None, Tensor? delta_bias=None, bool delta_softplus=False, "
      "bool reverse=False) -> Tensor",
      &vmb::EagerScanOp::unpacked<&vmb::scan_eager>);
  m.def(
      "causal_conv1d_silu(Tensor x, Tensor weight, Tensor? bias=None, bool reverse=False, "
      "str path=\"auto\") -> Tensor");
}
TORCH_LIBRARY_IMPL(vm_beautynet, CPU, m) {
  m.impl("selective_scan", &vmb::ScanOp::unpacked<&vmb::scan>);
}
TORCH_LIBRARY_IMPL(vm_beautynet, CUDA, m) {
  m.impl("selective_scan", &vmb::ScanOp::unpacked<&vmb::scan>);
}
TORCH_LIBRARY_IMPL(vm_beautynet, Meta, m) {
  m.impl("selective_scan", &vmb::ScanOp::unpacked<&vmb::scan_meta>);
}
TORCH_LIBRARY_IMPL(vm_beautynet, Autograd, m) {
  m.impl("selective_scan", &vmb::ScanOp::unpacked<&vmb::scan_autograd>);
}
