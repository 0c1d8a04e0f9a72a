// vm_beautynet::selective_scan: checks, CPU kernels, autograd, meta, and the eager formulation for
// devices without kernels.
//
// Mamba, arXiv 2312.00752, algorithm 2, with the discretization of its published code: for every
// batch b, channel d, state n dt_l = softplus(delta_l + delta_bias),  h_l = exp(dt_l A) h_{l-1} +
// dt_l u_l B_l,  y_l = C_l . h_l + D u_l,  out_l = y_l silu(z_l).
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>

#include "cuda/cuda_ops.h"
#include "dispatch.h"

namespace vmb {
namespace {

using at::Tensor;
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

constexpr int64_t kMaxState = 256;

bool given(const OptionalTensor& x) { return x && x->defined(); }

void check_tensor(const Tensor& x, const char* name, at::IntArrayRef shape, const char* meaning,
                  const Tensor& u) {
  TORCH_CHECK_VALUE(x.sizes() == shape, "selective_scan: ", name, " must have shape ", meaning,
                    " = ", shape, ", has ", x.sizes());
  TORCH_CHECK_TYPE(at::isFloatingType(x.scalar_type()), "selective_scan: ", name,
                   " must be floating point, is ", x.scalar_type());
  TORCH_CHECK_VALUE(x.device() == u.device(), "selective_scan: ", name, " is on ", x.device(),
                    ", u is on ", u.device());
}

void check_arguments(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                     const Tensor& C, const OptionalTensor& D, const OptionalTensor& z,
                     const OptionalTensor& delta_bias) {
  TORCH_CHECK_VALUE(u.dim() == 3, "selective_scan: u must have shape (batch, dim, length), has ",
                    u.sizes());
  TORCH_CHECK_VALUE(A.dim() == 2, "selective_scan: A must have shape (dim, state), has ",
                    A.sizes());
  const int64_t batch = u.size(0), dim = u.size(1), length = u.size(2), state = A.size(1);
  TORCH_CHECK_VALUE(state >= 1 && state <= kMaxState,
                    "selective_scan: the state size (A's second dimension) must be 1 to ",
                    kMaxState, ", is ", state);
  check_tensor(u, "u", {batch, dim, length}, "(batch, dim, length)", u);
  check_tensor(delta, "delta", {batch, dim, length}, "u's (batch, dim, length)", u);
  check_tensor(A, "A", {dim, state}, "(dim, state)", u);
  check_tensor(B, "B", {batch, state, length}, "(batch, state, length)", u);
  check_tensor(C, "C", {batch, state, length}, "(batch, state, length)", u);
  if (given(D)) check_tensor(*D, "D", {dim}, "(dim)", u);
  if (given(z)) check_tensor(*z, "z", {batch, dim, length}, "u's (batch, dim, length)", u);
  if (given(delta_bias)) check_tensor(*delta_bias, "delta_bias", {dim}, "(dim)", u);
}

// The operands in the type the kernels compute in; tensors that have it already are not copied.
struct Operands {
  Tensor u, delta, A, B, C, D, z, delta_bias;

  Operands(const Tensor& u_, const Tensor& delta_, const Tensor& A_, const Tensor& B_,
           const Tensor& C_, const OptionalTensor& D_, const OptionalTensor& z_,
           const OptionalTensor& delta_bias_) {
    const auto type = compute_type(u_);
    u = u_.to(type), delta = delta_.to(type), A = A_.to(type), B = B_.to(type), C = C_.to(type);
    z = optional_to(z_, type);
    D = optional_to(D_, type), delta_bias = optional_to(delta_bias_, type);
    if (D.defined()) D = D.contiguous();
    if (delta_bias.defined()) delta_bias = delta_bias.contiguous();
  }

  template <class T>
  ScanInputs<T> inputs(bool delta_softplus, bool reverse) const {
    ScanInputs<T> in;
    in.size = {u.size(0), u.size(1), u.size(2), A.size(1)};
    in.u = view_of<const T>(u, reverse), in.delta = view_of<const T>(delta, reverse),
    in.z = view_of<const T>(z, reverse);
    in.B = view_of<const T>(B, reverse), in.C = view_of<const T>(C, reverse);
    in.A = {A.const_data_ptr<T>(), 0, A.stride(0), A.stride(1)};
    in.D = D.defined() ? D.const_data_ptr<T>() : nullptr;
    in.delta_bias = delta_bias.defined() ? delta_bias.const_data_ptr<T>() : nullptr;
    in.delta_softplus = delta_softplus;
    return in;
  }
};

Tensor scan_eager(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                  const Tensor& C, const OptionalTensor& D, const OptionalTensor& z,
                  const OptionalTensor& delta_bias, bool delta_softplus, bool reverse);

// (out, states): states are what backward starts its chunks from; empty unless kept.
std::tuple<Tensor, Tensor> forward_cpu(const Tensor& u, const Tensor& delta, const Tensor& A,
                                       const Tensor& B, const Tensor& C, const OptionalTensor& D,
                                       const OptionalTensor& z, const OptionalTensor& delta_bias,
                                       bool delta_softplus, bool reverse, bool keep_states,
                                       std::string_view path) {
  const Operands x(u, delta, A, B, C, D, z, delta_bias);
  Tensor out = empty_in_layout_of(u, x.u.scalar_type());
  Tensor states = at::empty({0}, x.u.options());
  AT_DISPATCH_FLOATING_TYPES(x.u.scalar_type(), "selective_scan", [&] {
    const auto& table = kernels<scalar_t>(path);
    ScanForward<scalar_t> args{x.inputs<scalar_t>(delta_softplus, reverse),
                               view_of<scalar_t>(out, reverse), nullptr};
    if (keep_states) {
      states = at::empty({args.in.size.checkpoint_elements()}, x.u.options());
      args.checkpoints = states.mutable_data_ptr<scalar_t>();
    }
    if (out.numel() > 0)
      parallel_items(args.in.size.items(), table.scan_workspace(args.in.size),
                     [&](int64_t begin, int64_t end, void* workspace) {
                       table.scan_forward(args, begin, end, workspace);
                     });
  });
  return {out.to(u.scalar_type()), states};
}

Gradients backward_cpu(const Tensor& dout_, const Tensor& u, const Tensor& delta, const Tensor& A,
                       const Tensor& B, const Tensor& C, const OptionalTensor& D,
                       const OptionalTensor& z, const OptionalTensor& delta_bias,
                       const Tensor& states, bool delta_softplus, bool reverse,
                       std::string_view path) {
  const Operands x(u, delta, A, B, C, D, z, delta_bias);
  const auto type = x.u.scalar_type();
  const auto options = x.u.options();
  const Tensor dout = dout_.to(type);
  const int64_t batch = u.size(0), dim = u.size(1), length = u.size(2), state = A.size(1);
  Tensor du = empty_in_layout_of(u, type), ddelta = empty_in_layout_of(delta, type);
  Tensor dz = x.z.defined() ? empty_in_layout_of(x.z, type) : Tensor();
  const int64_t groups = ScanSizes{batch, dim, length, state}.groups();
  Tensor dA = at::empty({batch, dim, state}, options), dD = at::empty({batch, dim}, options),
         dbias = at::empty({batch, dim}, options);
  // One slot per (batch, group); states innermost, as the kernels write them.
  Tensor dB = at::empty({batch * groups, length, state}, options),
         dC = at::empty({batch * groups, length, state}, options);
  if (u.numel() == 0) {
    for (Tensor* t : {&dA, &dD, &dbias, &dB, &dC}) t->zero_();
  } else {
    AT_DISPATCH_FLOATING_TYPES(type, "selective_scan_backward", [&] {
      const auto& table = kernels<scalar_t>(path);
      ScanBackward<scalar_t> args;
      args.in = x.inputs<scalar_t>(delta_softplus, reverse);
      args.dout = view_of<const scalar_t>(dout, reverse);
      args.checkpoints = states.const_data_ptr<scalar_t>();
      args.du = view_of<scalar_t>(du, reverse), args.ddelta = view_of<scalar_t>(ddelta, reverse),
      args.dz = view_of<scalar_t>(dz, reverse);
      args.dA = dA.mutable_data_ptr<scalar_t>(), args.dD = dD.mutable_data_ptr<scalar_t>();
      args.ddelta_bias = dbias.mutable_data_ptr<scalar_t>();
      args.dB = view_of<scalar_t>(dB.transpose(1, 2), reverse),
      args.dC = view_of<scalar_t>(dC.transpose(1, 2), reverse);
      parallel_items(args.in.size.items(), table.scan_workspace(args.in.size),
                     [&](int64_t begin, int64_t end, void* workspace) {
                       table.scan_backward(args, begin, end, workspace);
                     });
    });
  }
  auto over_groups = [&](const Tensor& parts) {
    if (u.numel() == 0) return at::zeros({batch, state, length}, options);
    return ordered_sum(parts.view({batch, groups, length, state}).transpose(0, 1)).transpose(1, 2);
  };
  auto over_batch = [&](const Tensor& parts, const OptionalTensor& like) {
    return given(like) ? ordered_sum(parts).to(like->scalar_type()) : Tensor();
  };
  return {du.to(u.scalar_type()),
          ddelta.to(delta.scalar_type()),
          over_batch(dA, A),
          over_groups(dB).to(B.scalar_type()),
          over_groups(dC).to(C.scalar_type()),
          over_batch(dD, D),
          dz.defined() ? dz.to(z->scalar_type()) : Tensor(),
          over_batch(dbias, delta_bias)};
}

bool has_kernels(const Tensor& u) { return u.is_cpu() || has_cuda_kernels(u); }

// On whichever device has kernels.
std::tuple<Tensor, Tensor> forward(const Tensor& u, const Tensor& delta, const Tensor& A,
                                   const Tensor& B, const Tensor& C, const OptionalTensor& D,
                                   const OptionalTensor& z, const OptionalTensor& delta_bias,
                                   bool delta_softplus, bool reverse, bool keep_states,
                                   std::string_view path) {
  check_arguments(u, delta, A, B, C, D, z, delta_bias);
  return u.is_cuda() ? scan_forward_cuda(u, delta, A, B, C, D, z, delta_bias, delta_softplus,
                                         reverse, keep_states)
                     : forward_cpu(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse,
                                   keep_states, path);
}

Tensor scan(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
            const OptionalTensor& D, const OptionalTensor& z, const OptionalTensor& delta_bias,
            bool delta_softplus, bool reverse, std::string_view path) {
  if (!has_kernels(u))
    return scan_eager(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse);
  return std::get<0>(
      forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, false, path));
}

Tensor scan_meta(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                 const Tensor& C, const OptionalTensor& D, const OptionalTensor& z,
                 const OptionalTensor& delta_bias, bool, bool, std::string_view) {
  check_arguments(u, delta, A, B, C, D, z, delta_bias);
  return empty_in_layout_of(u, u.scalar_type());
}

// The recurrence in ATen operations, differentiable by autograd: (length, batch, dim, state)
// tensors are built whole, unbound along the length once, and the outputs stacked at the end. The
// yardstick of the benchmark, and the fallback elsewhere; README.md says which other formulations
// were slower.
Tensor scan_eager(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                  const Tensor& C, const OptionalTensor& D, const OptionalTensor& z,
                  const OptionalTensor& delta_bias, bool delta_softplus, bool reverse) {
  check_arguments(u, delta, A, B, C, D, z, delta_bias);
  const auto type = compute_type(u);
  const Tensor uf = u.to(type);
  Tensor dt = delta.to(type);
  if (given(delta_bias)) dt = dt + delta_bias->to(type).unsqueeze(-1);
  if (delta_softplus) dt = at::softplus(dt);
  auto length_first = [](const Tensor& x) { return x.permute({2, 0, 1}); };
  const Tensor steps = length_first(dt).contiguous();                      // (l, b, d)
  const auto decay = at::exp(steps.unsqueeze(-1) * A.to(type)).unbind(0);  // l x (b, d, n)
  const auto input =
      ((steps * length_first(uf)).unsqueeze(-1) * length_first(B.to(type)).unsqueeze(2))
          .unbind(0);  // l x (b, d, n)
  const auto readout =
      length_first(C.to(type)).unsqueeze(-1).contiguous().unbind(0);  // l x (b, n, 1)
  const int64_t length = u.size(2);
  std::vector<Tensor> outputs(length);
  Tensor h = at::zeros({u.size(0), u.size(1), A.size(1)}, uf.options());
  for (int64_t i = 0; i < length; ++i) {
    const int64_t l = reverse ? length - 1 - i : i;
    h = at::addcmul(input[l], decay[l], h);
    outputs[l] = at::bmm(h, readout[l]).squeeze(-1);
  }
  Tensor y = length > 0 ? at::stack(outputs, 2) : at::zeros_like(uf);
  if (given(D)) y = y + uf * D->to(type).unsqueeze(-1);
  if (given(z)) y = y * at::silu(z->to(type));
  return y.to(u.scalar_type());
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ScanFunction : torch::autograd::Function<ScanFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& u, const Tensor& delta,
                        const Tensor& A, const Tensor& B, const Tensor& C, const OptionalTensor& D,
                        const OptionalTensor& z, const OptionalTensor& delta_bias,
                        bool delta_softplus, bool reverse, const std::string& path,
                        bool keep_states) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [out, states] = vmb::forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse,
                                      keep_states, path);
    context->save_for_backward({u, delta, A, B, C, value_or_undefined(D), value_or_undefined(z),
                                value_or_undefined(delta_bias), states});
    context->saved_data["delta_softplus"] = delta_softplus;
    context->saved_data["reverse"] = reverse;
    context->saved_data["path"] = path;
    return out;
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto s = context->get_saved_variables();
    if (!gradients[0].defined()) return variable_list(12);
    // Under create_graph the result would need a derivative of its own; without one it would be
    // silently wrong.
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(),
                                "selective_scan: double backward is not implemented; use "
                                "selective_scan_eager where create_graph is needed");
    const bool delta_softplus = context->saved_data["delta_softplus"].toBool(),
               reverse = context->saved_data["reverse"].toBool();
    auto [du, ddelta, dA, dB, dC, dD, dz, dbias] =
        s[0].is_cuda()
            ? scan_backward_cuda(gradients[0], s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8],
                                 delta_softplus, reverse)
            : backward_cpu(gradients[0], s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8],
                           delta_softplus, reverse, context->saved_data["path"].toStringRef());
    variable_list result{du, ddelta, dA, dB, dC, dD, dz, dbias};
    result.resize(12);  // the flags have no gradient
    return result;
  }
};

Tensor scan_autograd(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                     const Tensor& C, const OptionalTensor& D, const OptionalTensor& z,
                     const OptionalTensor& delta_bias, bool delta_softplus, bool reverse,
                     std::string_view path) {
  if (u.is_meta())
    return scan_meta(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, path);
  if (!has_kernels(u))
    return scan_eager(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse);
  auto wants = [](const OptionalTensor& x) { return given(x) && x->requires_grad(); };
  const bool keep =
      at::GradMode::is_enabled() &&
      (u.requires_grad() || delta.requires_grad() || A.requires_grad() || B.requires_grad() ||
       C.requires_grad() || wants(D) || wants(z) || wants(delta_bias));
  if (!keep) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, path);
  }
  return ScanFunction::apply(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse,
                             std::string(path), keep);
}

}  // namespace
}  // namespace vmb

TORCH_LIBRARY(vm_beautynet, m) {
  m.def(
      "selective_scan(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D=None, "
      "Tensor? z=None, Tensor? delta_bias=None, "
      "bool delta_softplus=False, bool reverse=False, str path=\"auto\") -> Tensor");
  m.def(
      "selective_scan_eager(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D=None, "
      "Tensor? z=None, Tensor? delta_bias=None, "
      "bool delta_softplus=False, bool reverse=False) -> Tensor",
      vmb::scan_eager);
  m.def(
      "causal_conv1d_silu(Tensor x, Tensor weight, Tensor? bias=None, bool reverse=False, str "
      "path=\"auto\") -> Tensor");
}
TORCH_LIBRARY_IMPL(vm_beautynet, CPU, m) { m.impl("selective_scan", vmb::scan); }
TORCH_LIBRARY_IMPL(vm_beautynet, CUDA, m) { m.impl("selective_scan", vmb::scan); }
TORCH_LIBRARY_IMPL(vm_beautynet, Meta, m) { m.impl("selective_scan", vmb::scan_meta); }
TORCH_LIBRARY_IMPL(vm_beautynet, Autograd, m) { m.impl("selective_scan", vmb::scan_autograd); }
