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

#include "border.h"
#include "cuda/cuda_ops.h"
#include "dispatch.h"
#include "launches.h"
#include "scan_inputs.h"

namespace vmb {
namespace {

using at::Tensor;

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
  ScanArgs<T> args;
  args.size = {x.batch(), x.dim(), x.length(), x.state()};
  args.u = view_of<const T>(x.u, x.reverse), args.delta = view_of<const T>(x.delta, x.reverse);
  args.z = view_of<const T>(x.z, x.reverse);
  args.B = view_of<const T>(x.B, x.reverse), args.C = view_of<const T>(x.C, x.reverse);
  args.A = {x.A.const_data_ptr<T>(), 0, x.A.stride(0), x.A.stride(1)};
  args.D = data_of<T>(x.D), args.delta_bias = data_of<T>(x.delta_bias);
  args.delta_softplus = x.delta_softplus;
  return args;
}

// The operands of all scans in the types that kernels compute in. z is converted once.
std::vector<ScanInputs> cast(Scans scans, at::ScalarType type) {
  std::vector<ScanInputs> all;
  for (ScanInputs x : scans) {
    if (!all.empty()) x.z = all[0].z;
    all.push_back(x.cast(type, type));
  }
  return all;
}

ScanResult scan_forward_cpu(Scans operands, bool keep_states, std::string_view path) {
  const Tensor& u = operands[0].u;
  const auto type = compute_type(u);
  const auto scans = cast(operands, type);
  const int64_t count = operands.size();
  Tensor out = empty_in_layout_of(u, type);
  Tensor states = at::empty({0}, out.options());
  AT_DISPATCH_FLOATING_TYPES(type, "selective_scan", [&] {
    const auto& table = kernels<scalar_t>(path);
    std::vector<ScanForwardArgs<scalar_t>> all;
    for (const ScanInputs& x : scans)
      all.push_back({kernel_args<scalar_t>(x), view_of<scalar_t>(out, x.reverse), nullptr,
                     scalar_t(1) / count, /*add=*/!all.empty()});
    const ScanSizes& size = all[0].in.size;
    if (keep_states) {
      states = at::empty({count, size.checkpoint_elements()}, states.options());
      for (int64_t i = 0; i < count; ++i)
        all[i].checkpoints = states[i].mutable_data_ptr<scalar_t>();
    }
    if (out.numel() > 0)
      parallel_problems(size.items(), table.scan_workspace(size), table.scan_forward, all);
  });
  return {out.to(u.scalar_type()), states};
}

void scan_backward_cpu(Scans operands, const Tensor& states, const Tensor& dout_,
                       ScanGradients& gradients, std::string_view path) {
  const auto type = compute_type(operands[0].u);
  const auto scans = cast(operands, type);
  const ScanInputs& like = scans[0];
  const int64_t count = scans.size(), batch = like.batch(), dim = like.dim(),
                length = like.length(), state = like.state(),
                groups = ScanSizes{batch, dim, length, state}.groups();
  const auto options = like.u.options();
  const Tensor dout = dout_.to(type), du = writable_as(gradients.du, type),
               ddelta = writable_as(gradients.ddelta, type), dz = writable_as(gradients.dz, type);
  // Partial sums; states are innermost, as the kernels write them.
  Tensor dA = at::empty({count, batch, dim, state}, options);
  Tensor dD = at::empty({count, batch, dim}, options), dbias = at::empty_like(dD);
  Tensor dBC = at::empty({count * batch, groups, length, 2, state}, options);
  if (like.u.numel() == 0) {
    for (Tensor* t : {&dA, &dD, &dbias, &dBC}) t->zero_();
  } else {
    AT_DISPATCH_FLOATING_TYPES(type, "selective_scan_backward", [&] {
      const auto& table = kernels<scalar_t>(path);
      const auto of_items = dBC.view({count, batch * groups, length, 2, state});
      std::vector<ScanBackwardArgs<scalar_t>> all(count);
      for (int64_t i = 0; i < count; ++i) {
        ScanBackwardArgs<scalar_t>& args = all[i];
        const bool reverse = scans[i].reverse;
        const auto view = [&](const Tensor& t) { return view_of<scalar_t>(t, reverse); };
        args.in = kernel_args<scalar_t>(scans[i]);
        args.dout = view_of<const scalar_t>(dout, reverse);
        args.checkpoints = states[i].const_data_ptr<scalar_t>();
        args.du = view(du[i]), args.ddelta = view(ddelta[i]), args.dz = view(dz);
        args.scale = scalar_t(1) / count, args.add_dz = i > 0;
        args.dA = dA[i].mutable_data_ptr<scalar_t>(), args.dD = dD[i].mutable_data_ptr<scalar_t>();
        args.ddelta_bias = dbias[i].mutable_data_ptr<scalar_t>();
        args.dB = view(of_items[i].select(2, 0).transpose(1, 2));
        args.dC = view(of_items[i].select(2, 1).transpose(1, 2));
      }
      const ScanSizes& size = all[0].in.size;
      parallel_problems(size.items(), table.scan_workspace(size), table.scan_backward, all);
    });
  }
  copy_back(gradients.du, du), copy_back(gradients.ddelta, ddelta), copy_back(gradients.dz, dz);
  gradients.dA = ordered_sum(dA);
  gradients.dBC = ordered_sum(dBC).unflatten(0, {count, batch});
  gradients.dD = ordered_sum(dD);
  gradients.ddelta_bias = ordered_sum(dbias);
}

}  // namespace

ScanResult scan_forward(Scans scans, bool keep_states, std::string_view path) {
  return on_device_of(
      scans[0].u, [&] { return scan_forward_cuda(scans, keep_states); },
      [&] { return scan_forward_cpu(scans, keep_states, path); });
}

void scan_backward(Scans scans, const Tensor& states, const Tensor& dout, ScanGradients& gradients,
                   std::string_view path) {
  on_device_of(
      scans[0].u, [&] { scan_backward_cuda(scans, states, dout, gradients); },
      [&] { scan_backward_cpu(scans, states, dout, gradients, path); });
}

namespace {

Tensor scan_meta(const ScanInputs& x, std::string_view) {
  check_operands(x);
  return empty_in_layout_of(x.u, x.u.scalar_type());
}

}  // namespace

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

namespace {

Tensor scan(const ScanInputs& x, std::string_view path) {
  if (!has_kernels(x.u)) return scan_eager(x);
  check_operands(x);
  return scan_forward(x, /*keep_states=*/false, path).out;
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ScanFunction : torch::autograd::Function<ScanFunction> {
  // Autograd connects the tensors of the list only: those of x that are given.
  static Tensor forward(AutogradContext* context, at::TensorList, const ScanInputs& x,
                        const std::string& path) {
    at::AutoDispatchBelowADInplaceOrView guard;
    check_operands(x);
    auto [out, states] = scan_forward(x, /*keep_states=*/true, path);
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
    ScanGradients g;
    g.du = empty_stack_in_layout_of(x.u, 1, x.u.scalar_type());
    g.ddelta = empty_stack_in_layout_of(x.delta, 1, x.delta.scalar_type());
    if (x.z.defined()) g.dz = empty_in_layout_of(x.z, x.z.scalar_type());
    scan_backward(x, s[8], douts[0], g, context->saved_data["path"].toStringRef());
    const auto state_rows = [&](int64_t which, const Tensor& like) {
      return g.dBC[0].select(2, which).transpose(1, 2).to(like.scalar_type());
    };
    const auto parameter = [](const Tensor& gradient, const Tensor& like) {
      return like.defined() ? gradient[0].to(like.scalar_type()) : Tensor();
    };
    variable_list gradients{g.du[0],
                            g.ddelta[0],
                            parameter(g.dA, x.A),
                            state_rows(0, x.B),
                            state_rows(1, x.C),
                            parameter(g.dD, x.D),
                            g.dz,
                            parameter(g.ddelta_bias, x.delta_bias)};
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
  if (!records_gradients("selective_scan", given)) {
    static const auto inner = op<ScanOp::Function>("vm_beautynet::selective_scan");
    at::AutoDispatchBelowADInplaceOrView guard;
    return ScanOp::call(inner, x, path);
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
