// vm_beautynet::bimamba_inner: the inner part of Vision Mamba's bidirectional mixer
// (arXiv 2401.09417), between in_proj and out_proj, as one node of autograd. For each direction:
//
//   u            = silu(causal_conv1d(x))
//   (rank, B, C) = x_proj u
//   delta        = dt_proj rank
//   y            = selective_scan(u, delta, -exp(A_log), B, C, D, z, dt_bias)
//
// and the result is the mean of both y. Like mamba-ssm's inner function, it saves its input, the
// outputs of x_proj and the states of the scans: backward computes the convolutions and the step
// sizes again. Both directions are one parallel region or one launch wherever they can be.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>

#include "bimamba_cpu.h"
#include "border.h"
#include "cuda/cuda_ops.h"
#include "dispatch.h"
#include "launches.h"
#include "scan_inputs.h"

namespace vmb {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The products of both directions, (2, m, k) times (2, k, n), in their type: autocast, which may be
// enabled in backward, does not cast a product with a given output.
Tensor product(const Tensor& a, const Tensor& b) {
  Tensor out = at::empty({a.size(0), a.size(1), b.size(2)}, a.options());
  return at::bmm_out(out, a, b);
}

// The operands of both passes in ATen operations, on a GPU, or where its launches are counted. The
// first dimension of all that belongs to a direction is 2.
struct Inner {
  Tensor xz;  // (batch, length, {x, z}, inner)
  std::array<Direction, 2> directions;
  Tensor x_proj, dt_proj;  // (2, rank + 2 state, inner), (2, inner, rank), in xz's type
  Tensor A;                // (2, inner, state)

  // Channels are innermost: what the operators write in xz's layout is also written as rows.
  Inner(const Tensor& xz_, at::TensorList parameters)
      : xz((xz_.stride(2) == 1 ? xz_ : xz_.contiguous()).unflatten(2, {2, -1})),
        directions{Direction(parameters.slice(0, kParameters), false),
                   Direction(parameters.slice(kParameters), true)} {}

  int64_t batch() const { return xz.size(0); }
  int64_t length() const { return xz.size(1); }
  int64_t inner() const { return xz.size(3); }
  int64_t state() const { return directions[0].A_log.size(1); }
  int64_t rank() const { return directions[0].dt_proj.size(1); }

  // One of xz's halves, or of a tensor of its shape, as (batch, inner, length).
  static Tensor half(const Tensor& xz, int64_t which) {
    return xz.select(2, which).transpose(1, 2);
  }

  void convert_parameters() {
    const auto &[f, b] = directions;
    x_proj = at::empty({2, f.x_proj.size(0), f.x_proj.size(1)}, xz.options());
    dt_proj = at::empty({2, f.dt_proj.size(0), f.dt_proj.size(1)}, xz.options());
    A = at::empty({2, f.A_log.size(0), f.A_log.size(1)}, xz.options().dtype(compute_type(xz)));
    std::vector<Tensor> weights{x_proj[0], x_proj[1], dt_proj[0], dt_proj[1]};
    at::_foreach_copy_(weights, {f.x_proj, b.x_proj, f.dt_proj, b.dt_proj});
    std::vector<Tensor> A_logs{A[0], A[1]};
    at::_foreach_copy_(A_logs, {f.A_log, b.A_log});
    A.exp_().neg_();
  }

  std::vector<ConvInputs> convs() const {
    std::vector<ConvInputs> both;
    for (const Direction& d : directions)
      both.push_back({half(xz, 0), d.conv_weight, d.conv_bias, d.reverse});
    return both;
  }

  // (2, batch, inner, length) as (2, batch * length, inner).
  static Tensor rows(const Tensor& u) { return u.transpose(2, 3).flatten(1, 2); }

  // The operands of the scans; low is x_proj's output (2, batch * length, rank + 2 state), delta
  // (2, batch * length, inner).
  std::vector<ScanInputs> scans(const Tensor& u, const Tensor& low, const Tensor& delta) const {
    std::vector<ScanInputs> both;
    for (int64_t i = 0; i < 2; ++i) {
      const Direction& d = directions[i];
      const auto sequence = [&](const Tensor& x) {
        return x.unflatten(0, {batch(), length()}).transpose(1, 2);
      };
      both.push_back({u[i], sequence(delta[i]), A[i],
                      sequence(low[i].narrow(1, rank(), state())),
                      sequence(low[i].narrow(1, rank() + state(), state())), d.D, half(xz, 1),
                      d.dt_bias, /*delta_softplus=*/true, d.reverse});
    }
    return both;
  }

  // x_proj's output for the convolutions' u.
  Tensor project(const Tensor& u) const { return product(rows(u), x_proj.transpose(1, 2)); }

  Tensor step_sizes(const Tensor& low) const {
    return product(low.narrow(2, 0, rank()), dt_proj.transpose(1, 2));
  }
};

void check_arguments(const Tensor& xz, at::TensorList forward, at::TensorList backward) {
  TORCH_CHECK_VALUE(xz.dim() == 3 && xz.size(2) % 2 == 0,
                    "bimamba_inner: xz must have shape (batch, length, 2 inner), has ", xz.sizes());
  TORCH_CHECK_TYPE(at::isFloatingType(xz.scalar_type()),
                   "bimamba_inner: xz must be floating point, is ", xz.scalar_type());
  const int64_t inner = xz.size(2) / 2;
  for (const at::TensorList& p : {forward, backward}) {
    TORCH_CHECK_VALUE(p.size() == kParameters,
                      "bimamba_inner: a direction has 7 parameters (conv1d.weight, conv1d.bias, "
                      "x_proj, dt_proj.weight, dt_proj.bias, A_log, D), got ",
                      p.size());
    TORCH_CHECK_VALUE(p[0].dim() == 3 && p[3].dim() == 2 && p[5].dim() == 2,
                      "bimamba_inner: conv1d.weight must have shape (inner, 1, width), "
                      "dt_proj.weight (inner, rank) and A_log (inner, state), have ",
                      p[0].sizes(), ", ", p[3].sizes(), " and ", p[5].sizes());
    const int64_t width = forward[0].size(2), rank = forward[3].size(1), state = forward[5].size(1);
    const auto check = [&](const Tensor& x, const char* name, at::IntArrayRef shape) {
      TORCH_CHECK_VALUE(x.sizes() == shape, "bimamba_inner: ", name, " must have shape ", shape,
                        ", has ", x.sizes());
      TORCH_CHECK_TYPE(at::isFloatingType(x.scalar_type()), "bimamba_inner: ", name,
                       " must be floating point, is ", x.scalar_type());
      TORCH_CHECK_VALUE(x.device() == xz.device(), "bimamba_inner: ", name, " is on ", x.device(),
                        ", xz is on ", xz.device());
    };
    check(p[0], "conv1d.weight", {inner, 1, width});
    check(p[1], "conv1d.bias", {inner});
    check(p[2], "x_proj", {rank + 2 * state, inner});
    check(p[3], "dt_proj.weight", {inner, rank});
    check(p[4], "dt_proj.bias", {inner});
    check(p[5], "A_log", {inner, state});
    check(p[6], "D", {inner});
    TORCH_CHECK_VALUE(width >= 1 && width <= kMaxConvWidth && state >= 1 && state <= kMaxState,
                      "bimamba_inner: the width of the convolution must be 1 to ", kMaxConvWidth,
                      " and the state size 1 to ", kMaxState, ", are ", width, " and ", state);
  }
}

// In ATen operations, for devices without kernels.
Tensor bimamba_eager(const Tensor& xz, at::TensorList parameters) {
  const Inner in(xz, parameters);
  const auto type = xz.scalar_type();
  Tensor sum;
  for (const Direction& d : in.directions) {
    const Tensor u = conv_eager({Inner::half(in.xz, 0), d.conv_weight, d.conv_bias, d.reverse});
    const Tensor low = at::linear(u.transpose(1, 2), d.x_proj.to(type));
    const auto parts = low.split_with_sizes({in.rank(), in.state(), in.state()}, -1);
    const Tensor delta = at::linear(parts[0], d.dt_proj.to(type));
    const Tensor y = scan_eager({u, delta.transpose(1, 2), -d.A_log.exp(), parts[1].transpose(1, 2),
                                 parts[2].transpose(1, 2), d.D, Inner::half(in.xz, 1), d.dt_bias,
                                 /*delta_softplus=*/true, d.reverse});
    sum = sum.defined() ? sum + y : y;
  }
  return (sum * 0.5).transpose(1, 2);
}

// Where the parameters are among the saved tensors, behind xz and five that the pass computed.
constexpr int64_t kParametersAt = 6;

bool by_cpu_kernels(const Tensor& xz) { return xz.is_cpu() && !launch_counter; }

struct BimambaInner : torch::autograd::Function<BimambaInner> {
  static Tensor forward(AutogradContext* context, const Tensor& xz, at::TensorList parameters,
                        const std::string& path) {
    at::AutoDispatchBelowADInplaceOrView guard;
    Tensor out;
    variable_list saved;
    const bool by_cpu = by_cpu_kernels(xz);
    if (by_cpu) {
      MixerState state;
      out = bimamba_forward_cpu(xz, parameters, path, &state);
      saved = {xz, state.A[0], state.A[1], state.low[0], state.low[1], state.states};
    } else {
      Inner in(xz, parameters);
      in.convert_parameters();
      Tensor low;
      const ScanResult result = run(in, low, /*keep_states=*/true, path);
      out = result.out.transpose(1, 2);
      saved = {xz, low, result.states, in.x_proj, in.dt_proj, in.A};
    }
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    context->save_for_backward(std::move(saved));
    context->saved_data["path"] = path;
    context->saved_data["by_cpu"] = by_cpu;
    return out;
  }

  static ScanResult run(const Inner& in, Tensor& low, bool keep_states, std::string_view path) {
    const Tensor u = conv_forward(in.convs(), path);
    low = in.project(u);
    return scan_forward(in.scans(u, low, in.step_sizes(low)), keep_states, path);
  }

  static variable_list backward(AutogradContext* context, const variable_list& douts) {
    const auto saved = context->get_saved_variables();
    // xz, the parameters, and none for path.
    variable_list gradients(2 + 2 * kParameters);
    if (!douts[0].defined()) return gradients;
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(),
                                "bimamba_inner: double backward is not implemented");
    const std::string& path = context->saved_data["path"].toStringRef();
    const at::TensorList parameters = at::TensorList(saved).slice(kParametersAt);
    if (context->saved_data["by_cpu"].toBool()) {
      const MixerState state{{saved[1], saved[2]}, {saved[3], saved[4]}, saved[5]};
      gradients = bimamba_backward_cpu(saved[0], parameters, state, douts[0], path);
      gradients.emplace_back();
      return gradients;
    }
    Inner in(saved[0], parameters);
    const Tensor& low = saved[1];
    in.x_proj = saved[3], in.dt_proj = saved[4], in.A = saved[5];
    const Tensor dxz = at::empty(in.xz.sizes(), in.xz.options());

    const Tensor u = conv_forward(in.convs(), path), delta = in.step_sizes(low);
    ScanGradients scan;
    scan.du = at::empty_like(u);
    const Tensor ddelta = at::empty_like(delta);
    scan.ddelta = ddelta.unflatten(1, {in.batch(), in.length()}).transpose(2, 3);
    scan.dz = Inner::half(dxz, 1);
    scan_backward(in.scans(u, low, delta), saved[2], douts[0].transpose(1, 2), scan, path);

    const int64_t rank = in.rank(), state = in.state();
    const Tensor dlow = at::empty_like(low);
    Tensor drank = dlow.narrow(2, 0, rank);
    at::bmm_out(drank, ddelta, in.dt_proj);
    dlow.unflatten(1, {in.batch(), in.length()})
        .narrow(3, rank, 2 * state)
        .unflatten(3, {2, state})
        .copy_(scan.dBC);
    const Tensor ddt_proj = product(ddelta.transpose(1, 2), low.narrow(2, 0, rank)),
                 dx_proj = product(dlow.transpose(1, 2), Inner::rows(u));
    Inner::rows(scan.du).baddbmm_(dlow, in.x_proj);

    ConvGradients conv;
    conv.dx = Inner::half(dxz, 0);
    conv_backward(in.convs(), scan.du, conv, path);
    gradients[0] = dxz.flatten(2);
    // In the order of Direction's parameters.
    const std::array<Tensor, kParameters> both{
        conv.dweight, conv.dbias, dx_proj, ddt_proj, scan.ddelta_bias, scan.dA.mul_(in.A), scan.dD};
    for (int64_t p = 0; p < kParameters; ++p) {
      const Tensor all = both[p].to(saved[kParametersAt + p].scalar_type());
      for (int64_t i = 0; i < 2; ++i) gradients[1 + i * kParameters + p] = all[i];
    }
    return gradients;
  }
};

Tensor bimamba_meta(const Tensor& xz, at::TensorList forward, at::TensorList backward,
                    std::string_view) {
  check_arguments(xz, forward, backward);
  return at::empty({xz.size(0), xz.size(1), xz.size(2) / 2}, xz.options());
}

std::vector<Tensor> joined(at::TensorList forward, at::TensorList backward) {
  std::vector<Tensor> all(forward.begin(), forward.end());
  all.insert(all.end(), backward.begin(), backward.end());
  return all;
}

Tensor bimamba(const Tensor& xz, at::TensorList forward, at::TensorList backward,
               std::string_view path) {
  check_arguments(xz, forward, backward);
  const auto parameters = joined(forward, backward);
  if (!has_kernels(xz)) return bimamba_eager(xz, parameters);
  if (by_cpu_kernels(xz)) return bimamba_forward_cpu(xz, parameters, path, nullptr);
  Inner in(xz, parameters);
  in.convert_parameters();
  Tensor low;
  return BimambaInner::run(in, low, /*keep_states=*/false, path).out.transpose(1, 2);
}

Tensor bimamba_autograd(const Tensor& xz, at::TensorList forward, at::TensorList backward,
                        std::string_view path) {
  if (xz.is_meta()) return bimamba_meta(xz, forward, backward, path);
  const auto parameters = joined(forward, backward);
  auto operands = parameters;
  operands.push_back(xz);
  if (records_gradients("bimamba_inner", operands)) {
    check_arguments(xz, forward, backward);
    if (!has_kernels(xz)) return bimamba_eager(xz, parameters);
    return BimambaInner::apply(xz, at::TensorList(parameters), std::string(path));
  }
  static const auto inner = op<decltype(bimamba)>("vm_beautynet::bimamba_inner");
  at::AutoDispatchBelowADInplaceOrView guard;
  return inner.call(xz, forward, backward, path);
}

}  // namespace
}  // namespace vmb

TORCH_LIBRARY_FRAGMENT(vm_beautynet, m) {
  m.def(
      "bimamba_inner(Tensor xz, Tensor[] forward, Tensor[] backward, str path=\"auto\") -> Tensor");
}
TORCH_LIBRARY_IMPL(vm_beautynet, CPU, m) { m.impl("bimamba_inner", vmb::bimamba); }
TORCH_LIBRARY_IMPL(vm_beautynet, CUDA, m) { m.impl("bimamba_inner", vmb::bimamba); }
TORCH_LIBRARY_IMPL(vm_beautynet, Meta, m) { m.impl("bimamba_inner", vmb::bimamba_meta); }
TORCH_LIBRARY_IMPL(vm_beautynet, Autograd, m) { m.impl("bimamba_inner", vmb::bimamba_autograd); }
