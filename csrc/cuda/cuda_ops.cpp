#include "cuda_ops.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#ifdef VMB_CUDA
#include <c10/cuda/CUDAStream.h>
#endif

#include <limits>

#include "kernels.h"
#include "ops/dispatch.h"
#include "ops/launches.h"

namespace vmb {
namespace {

using at::Tensor;

cuda::Type type_of(const Tensor& x) {
  return x.scalar_type() == at::kFloat  ? cuda::Type::f32
         : x.scalar_type() == at::kHalf ? cuda::Type::f16
                                        : cuda::Type::bf16;
}

// Runs kernel(stream) on the device of x, one launch. For a CPU tensor it is only counted.
template <class Kernel>
void launch(const char* what, const Tensor& x, const Kernel& kernel) {
  if (!x.is_cuda()) return launch_counter->add(what);
#ifdef VMB_CUDA
  const int error = kernel(c10::cuda::getCurrentCUDAStream(x.device().index()).stream());
  TORCH_CHECK(error == 0, what, " did not start on the GPU: ", cuda::error_text(error));
#else
  (void)kernel;
#endif
}

// A (batch, rows, steps) tensor; reversed: its last step first. The kernels compute offsets in 32
// bits.
cuda::Operand operand(const Tensor& x, bool reverse) {
  if (!x.defined()) return {nullptr, 0, 0, 0};
  int64_t extent = 0;
  for (int64_t i = 0; i < 3; ++i) extent += (x.size(i) - 1) * x.stride(i);
  TORCH_CHECK_VALUE(
      extent < std::numeric_limits<int32_t>::max(), "a tensor of ", x.sizes(),
      " is too large for the CUDA kernels, which address 2^31 elements: use a smaller batch");
  auto* data = static_cast<char*>(x.data_ptr());
  int64_t step = x.stride(2);
  if (reverse) data += (x.size(2) - 1) * step * x.element_size(), step = -step;
  return {data, x.stride(0), x.stride(1), step};
}

const float* pointer(const Tensor& x) { return x.defined() ? x.const_data_ptr<float>() : nullptr; }

// Sequences in u's type, parameters in contiguous float.
ScanInputs cast(const ScanInputs& x) { return x.cast(x.u.scalar_type(), at::kFloat); }

// Operands that cast returned, as the kernels see them.
cuda::ScanArgs kernel_args(const ScanInputs& x) {
  cuda::ScanArgs args;
  args.batch = x.batch(), args.dim = x.dim(), args.length = x.length(), args.state = x.state();
  args.u = operand(x.u, x.reverse), args.delta = operand(x.delta, x.reverse);
  args.z = operand(x.z, x.reverse);
  args.B = operand(x.B, x.reverse), args.C = operand(x.C, x.reverse);
  args.A = pointer(x.A), args.D = pointer(x.D), args.delta_bias = pointer(x.delta_bias);
  args.delta_softplus = x.delta_softplus;
  return args;
}

// One launch computes scans of the same sizes and types.
void check_scans(Scans scans) {
  TORCH_INTERNAL_ASSERT(!scans.empty() && scans.size() <= cuda::kMaxProblems);
  const ScanInputs &a = scans.front(), &b = scans.back();
  TORCH_INTERNAL_ASSERT(a.u.sizes() == b.u.sizes() && a.state() == b.state() &&
                        a.u.scalar_type() == b.u.scalar_type() && a.u.device() == b.u.device() &&
                        a.D.defined() == b.D.defined() && a.z.defined() == b.z.defined() &&
                        a.delta_bias.defined() == b.delta_bias.defined() &&
                        a.delta_softplus == b.delta_softplus);
}

// The sums over p of partials[:, p], in the order of p, in one launch: (outer, count, ...) ->
// (outer, ...).
std::vector<Tensor> sum_parts(at::TensorList all) {
  std::vector<Tensor> sums;
  std::vector<cuda::SumJob> jobs;
  for (const Tensor& partials : all) {
    auto shape = partials.sizes().vec();
    shape.erase(shape.begin() + 1);
    const int64_t outer = partials.size(0), count = partials.size(1);
    if (count == 1) {
      sums.push_back(partials.squeeze(1));
      continue;
    }
    const Tensor& out = sums.emplace_back(at::empty(shape, partials.options()));
    if (count == 0) out.zero_();
    if (partials.numel() > 0)
      jobs.push_back({partials.const_data_ptr<float>(), out.mutable_data_ptr<float>(), outer, count,
                      out.numel() / outer});
  }
  TORCH_INTERNAL_ASSERT(jobs.size() <= cuda::kMaxSums);
  if (!jobs.empty())
    launch("sum_parts", all[0], [&](void* stream) {
      return cuda::sum_parts(jobs.data(), static_cast<int>(jobs.size()), stream);
    });
  return sums;
}

}  // namespace

ScanResult scan_forward_cuda(Scans scans, bool keep_states) {
  check_scans(scans);
  const Tensor& u = scans[0].u;
  const c10::DeviceGuard device(u.device());
  const int64_t count = scans.size(), state = scans[0].state(),
                slot = u.size(0) * u.size(1) * cuda::padded_state(state);
  const Tensor outs = empty_stack_in_layout_of(u, count, u.scalar_type());
  const bool needs_states = u.numel() > 0 && (keep_states || state > cuda::kStates);
  const int64_t slots = !needs_states ? 0 : keep_states ? cuda::tiles(u.size(2)) : 1;
  const Tensor states = at::empty({count, slots * slot}, u.options().dtype(at::kFloat));
  std::vector<ScanInputs> operands;  // in memory until the launch
  std::vector<cuda::ScanForwardArgs> args;
  for (const ScanInputs& scan : scans) {
    const int64_t i = args.size();
    const ScanInputs& x = operands.emplace_back(cast(scan));
    args.push_back({kernel_args(x), operand(outs[i], x.reverse),
                    needs_states ? states[i].mutable_data_ptr<float>() : nullptr,
                    keep_states ? slot : 0});
  }
  if (u.numel() > 0)
    launch("selective_scan", u, [&](void* stream) {
      return cuda::scan_forward(args.data(), static_cast<int>(count), type_of(u), stream);
    });
  return {count == 1 ? outs[0] : outs.mean(0), states};
}

namespace {

// What the backward kernel writes for all scans; partial sums have the dimension that sum_parts
// adds over second.
struct ScanPartials {
  Tensor du, ddelta, dz;
  Tensor dA, dD_dbias, dBC, adjoint;

  ScanPartials(Scans scans, const ScanGradients& targets) {
    const ScanInputs& x = scans[0];
    const auto type = x.u.scalar_type();
    const auto floats = x.u.options().dtype(at::kFloat);
    const int64_t count = scans.size(), batch = x.batch(), dim = x.dim(),
                  padded = cuda::padded_state(x.state());
    du = targets.du, ddelta = writable_as(targets.ddelta, type);
    if (x.z.defined())
      dz = count == 1 && targets.dz.scalar_type() == type
               ? targets.dz.unsqueeze(0)
               : empty_stack_in_layout_of(x.z, count, type);
    dA = at::empty({count, batch, dim, padded}, floats);
    dD_dbias = at::empty({2 * count, batch, dim}, floats);
    dBC = at::empty({count * batch, cuda::channel_blocks(dim), x.length(), cuda::passes(x.state()),
                     2, cuda::kStates},
                    floats);
    if (x.state() > cuda::kStates) adjoint = at::empty({count, batch, dim, padded}, floats);
    if (x.u.numel() == 0)
      for (Tensor* t : {&dA, &dD_dbias, &dBC}) t->zero_();
  }

  // Those of the i-th scan, x.
  cuda::ScanBackwardArgs args(const ScanInputs& x, int64_t i, const Tensor& states,
                              const Tensor& dout) const {
    const auto data = [](const Tensor& t) { return t.mutable_data_ptr<float>(); };
    const int64_t count = dA.size(0), batch = x.batch();
    cuda::ScanBackwardArgs args{};
    args.in = kernel_args(x);
    args.dout = operand(dout, x.reverse);
    args.states = states[i].const_data_ptr<float>();
    args.states_stride = batch * x.dim() * cuda::padded_state(x.state());
    args.du = operand(du[i], x.reverse), args.ddelta = operand(ddelta[i], x.reverse);
    args.dz = dz.defined() ? operand(dz[i], x.reverse) : operand(dz, false);
    args.dA = data(dA[i]), args.dD = data(dD_dbias[i]);
    args.ddelta_bias = data(dD_dbias[count + i]);
    args.dBC = data(dBC.narrow(0, i * batch, batch)), args.reverse_dBC = x.reverse;
    args.adjoint = adjoint.defined() ? data(adjoint[i]) : nullptr;
    return args;
  }

  void sum(int64_t state, ScanGradients& gradients) const {
    const int64_t count = dA.size(0);
    if (dz.defined() && count > 1)
      at::sum_out(gradients.dz, dz, 0);
    else if (dz.defined())
      copy_back(gradients.dz, dz.squeeze(0));
    copy_back(gradients.ddelta, ddelta);
    const auto sums = sum_parts({dA, dBC, dD_dbias});
    gradients.dA = sums[0].narrow(2, 0, state);
    // (b, l, passes, {dB, dC}, states of a pass)
    gradients.dBC =
        sums[1].transpose(2, 3).flatten(3).narrow(3, 0, state).unflatten(0, {count, -1});
    gradients.dD = sums[2].narrow(0, 0, count);
    gradients.ddelta_bias = sums[2].narrow(0, count, count);
  }
};

}  // namespace

void scan_backward_cuda(Scans scans, const Tensor& states, const Tensor& dout_,
                        ScanGradients& gradients) {
  check_scans(scans);
  const Tensor& u = scans[0].u;
  const c10::DeviceGuard device(u.device());
  const int64_t count = scans.size();
  Tensor dout = dout_.to(u.scalar_type());
  if (count > 1) dout = dout * (1.0 / count);
  const ScanPartials partials(scans, gradients);
  std::vector<ScanInputs> operands;  // in memory until the launch
  std::vector<cuda::ScanBackwardArgs> args;
  if (u.numel() > 0) {
    for (const ScanInputs& scan : scans) {
      const ScanInputs& x = operands.emplace_back(cast(scan));
      args.push_back(partials.args(x, args.size(), states, dout));
    }
    launch("selective_scan's backward", u, [&](void* stream) {
      return cuda::scan_backward(args.data(), static_cast<int>(count), type_of(u), stream);
    });
  }
  partials.sum(scans[0].state(), gradients);
}

namespace {

// The operands of convolutions in the types that kernels compute in.
std::vector<ConvInputs> cast_parameters(Convs convs) {
  TORCH_INTERNAL_ASSERT(!convs.empty() && convs.size() <= cuda::kMaxProblems);
  TORCH_INTERNAL_ASSERT(convs.front().weight.sizes() == convs.back().weight.sizes());
  std::vector<ConvInputs> all;
  for (const ConvInputs& in : convs)
    all.push_back({in.x, in.weight.to(at::kFloat).contiguous(),
                   in.bias.defined() ? in.bias.to(at::kFloat).contiguous() : in.bias, in.reverse});
  return all;
}

cuda::ConvArgs kernel_args(const ConvInputs& in) {
  return {in.x.size(0),
          in.x.size(1),
          in.x.size(2),
          in.weight.size(2),
          operand(in.x, in.reverse),
          pointer(in.weight),
          pointer(in.bias)};
}

}  // namespace

Tensor conv_forward_cuda(Convs convs) {
  const Tensor& x = convs[0].x;
  const c10::DeviceGuard device(x.device());
  const auto operands = cast_parameters(convs);
  const Tensor outs = empty_stack_in_layout_of(x, convs.size(), x.scalar_type());
  if (outs.numel() == 0) return outs;
  std::vector<cuda::ConvForwardArgs> args;
  for (const ConvInputs& in : operands)
    args.push_back({kernel_args(in), operand(outs[args.size()], in.reverse)});
  launch("causal_conv1d_silu", x, [&](void* stream) {
    return cuda::conv_forward(args.data(), static_cast<int>(args.size()), type_of(x), stream);
  });
  return outs;
}

void conv_backward_cuda(Convs convs, const Tensor& dout_, ConvGradients& gradients) {
  const Tensor& x = convs[0].x;
  const c10::DeviceGuard device(x.device());
  const auto operands = cast_parameters(convs);
  const auto floats = x.options().dtype(at::kFloat);
  const int64_t count = convs.size(), batch = x.size(0), dim = x.size(1),
                width = convs[0].weight.size(2);
  const Tensor dout = dout_.to(x.scalar_type());
  const Tensor dx = count == 1 ? gradients.dx.unsqueeze(0)
                               : empty_stack_in_layout_of(x, count, x.scalar_type());
  const int64_t parts = batch * cuda::conv_chunks(batch, dim, x.size(2));
  const Tensor dweight = at::empty({count, parts, dim, 1, width}, floats);
  const Tensor dbias = at::empty({count, parts, dim}, floats);
  if (x.numel() > 0) {
    std::vector<cuda::ConvBackwardArgs> args;
    for (const ConvInputs& in : operands) {
      const int64_t i = args.size();
      args.push_back({kernel_args(in), operand(dout[i], in.reverse), operand(dx[i], in.reverse),
                      dweight[i].mutable_data_ptr<float>(), dbias[i].mutable_data_ptr<float>()});
    }
    launch("causal_conv1d_silu's backward", x, [&](void* stream) {
      return cuda::conv_backward(args.data(), static_cast<int>(count), type_of(x), stream);
    });
  } else {
    dweight.zero_(), dbias.zero_();
  }
  if (count > 1) at::sum_out(gradients.dx, dx, 0);
  const auto sums = sum_parts({dweight, dbias});
  gradients.dweight = sums[0], gradients.dbias = sums[1];
}

}  // namespace vmb
