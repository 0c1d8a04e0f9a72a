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

// One launch computes problems of the same sizes and types.
void check_problems(c10::ArrayRef<ScanInputs> problems) {
  TORCH_INTERNAL_ASSERT(!problems.empty() && problems.size() <= cuda::kMaxProblems);
  const ScanInputs &a = problems.front(), &b = problems.back();
  TORCH_INTERNAL_ASSERT(a.u.sizes() == b.u.sizes() && a.state() == b.state() &&
                        a.u.scalar_type() == b.u.scalar_type() && a.u.device() == b.u.device() &&
                        a.D.defined() == b.D.defined() && a.z.defined() == b.z.defined() &&
                        a.delta_bias.defined() == b.delta_bias.defined() &&
                        a.delta_softplus == b.delta_softplus);
}

int warps_for(const ScanInputs& x) {
  int64_t multiprocessors = 1;
#ifdef VMB_CUDA
  if (x.u.is_cuda()) multiprocessors = cuda::multiprocessors(x.u.get_device());
#endif
  return cuda::scan_warps(x.batch(), x.dim(), multiprocessors);
}

// sum over p of partials[:, p]: (outer, count, ...) -> (outer, ...), in the order of p.
Tensor sum_parts(const Tensor& partials) {
  if (partials.size(1) == 1) return partials.squeeze(1);
  auto shape = partials.sizes().vec();
  shape.erase(shape.begin() + 1);
  Tensor out = at::empty(shape, partials.options());
  const int64_t outer = partials.size(0), count = partials.size(1);
  if (out.numel() == 0 || count == 0) return out.zero_();
  launch("sum_parts", partials, [&](void* stream) {
    return cuda::sum_parts(partials.const_data_ptr<float>(), out.mutable_data_ptr<float>(), outer,
                           count, out.numel() / outer, stream);
  });
  return out;
}

}  // namespace

std::vector<ScanResult> scan_forward_cuda(c10::ArrayRef<ScanInputs> problems, bool keep_states) {
  check_problems(problems);
  const Tensor& u = problems[0].u;
  const c10::DeviceGuard device(u.device());
  const auto floats = u.options().dtype(at::kFloat);
  std::vector<ScanInputs> cast_problems;  // in memory until the launch
  std::vector<cuda::ScanForwardArgs> args;
  std::vector<ScanResult> results;
  for (const ScanInputs& operands : problems) {
    const ScanInputs& x = cast_problems.emplace_back(cast(operands));
    Tensor out = empty_in_layout_of(operands.u, u.scalar_type());
    Tensor states = at::empty({0}, floats);
    cuda::ScanForwardArgs& a = args.emplace_back(cuda::ScanForwardArgs{});
    if (out.numel() > 0) {
      a.in = kernel_args(x), a.out = operand(out, x.reverse);
      const int64_t slot = x.batch() * x.dim() * cuda::padded_state(x.state());
      if (keep_states) {
        states = at::empty({cuda::tiles(x.length()) * slot}, floats);
        a.states_stride = slot;
      } else if (x.state() > cuda::kStates) {
        states = at::empty({slot}, floats);
      }
      if (states.numel() > 0) a.states = states.mutable_data_ptr<float>();
    }
    results.emplace_back(std::move(out), std::move(states));
  }
  if (u.numel() > 0)
    launch("selective_scan", u, [&](void* stream) {
      return cuda::scan_forward(args.data(), static_cast<int>(args.size()), type_of(u),
                                warps_for(problems[0]), stream);
    });
  return results;
}

namespace {

// What the backward kernel writes for one problem; partial sums have the dimension that sum_parts
// adds over second.
struct ScanPartials {
  Tensor du, ddelta, dz, dA, dD, dbias, dBC, adjoint;

  ScanPartials(const ScanInputs& x, int warps) {
    const auto type = x.u.scalar_type();
    const auto floats = x.u.options().dtype(at::kFloat);
    const int64_t batch = x.batch(), dim = x.dim(), padded = cuda::padded_state(x.state());
    du = empty_in_layout_of(x.u, type), ddelta = empty_in_layout_of(x.delta, type);
    if (x.z.defined()) dz = empty_in_layout_of(x.z, type);
    dA = at::empty({1, batch, dim, padded}, floats);
    dD = at::empty({1, batch, dim}, floats), dbias = at::empty({1, batch, dim}, floats);
    dBC = at::empty({batch, cuda::channel_blocks(dim, warps), x.length(), cuda::passes(x.state()),
                     2, cuda::kStates},
                    floats);
    if (x.state() > cuda::kStates) adjoint = at::empty({batch, dim, padded}, floats);
    if (x.u.numel() == 0)
      for (Tensor* t : {&dA, &dD, &dbias, &dBC}) t->zero_();
  }

  cuda::ScanBackwardArgs args(const ScanInputs& x, const Tensor& states, const Tensor& dout) {
    cuda::ScanBackwardArgs args{};
    args.in = kernel_args(x);
    args.dout = operand(dout, x.reverse);
    args.states = states.const_data_ptr<float>();
    args.states_stride = x.batch() * x.dim() * cuda::padded_state(x.state());
    args.du = operand(du, x.reverse), args.ddelta = operand(ddelta, x.reverse);
    args.dz = operand(dz, x.reverse);
    args.dA = dA.mutable_data_ptr<float>(), args.dD = dD.mutable_data_ptr<float>();
    args.ddelta_bias = dbias.mutable_data_ptr<float>();
    args.dBC = dBC.mutable_data_ptr<float>(), args.reverse_dBC = x.reverse;
    args.adjoint = adjoint.defined() ? adjoint.mutable_data_ptr<float>() : nullptr;
    return args;
  }

  ScanGradients gradients(const ScanInputs& operands) const {
    const int64_t length = operands.length(), state = operands.state();
    const Tensor both = sum_parts(dBC);  // (b, l, passes, {dB, dC}, states of a pass)
    const auto rows = [&](int64_t which, const Tensor& like) {
      return both.select(3, which)
          .reshape({operands.batch(), length, cuda::padded_state(state)})
          .narrow(2, 0, state)
          .transpose(1, 2)
          .to(like.scalar_type());
    };
    const auto over_batch = [&](const Tensor& partials, const Tensor& like) {
      return like.defined() ? sum_parts(partials).squeeze(0).to(like.scalar_type())
                            : Tensor();
    };
    return {du,
            ddelta.to(operands.delta.scalar_type()),
            sum_parts(dA).squeeze(0).narrow(1, 0, state).to(operands.A.scalar_type()),
            rows(0, operands.B),
            rows(1, operands.C),
            over_batch(dD, operands.D),
            dz.defined() ? dz.to(operands.z.scalar_type()) : dz,
            over_batch(dbias, operands.delta_bias)};
  }
};

}  // namespace

std::vector<ScanGradients> scan_backward_cuda(c10::ArrayRef<ScanInputs> problems,
                                              at::TensorList states, at::TensorList douts) {
  check_problems(problems);
  const Tensor& u = problems[0].u;
  const c10::DeviceGuard device(u.device());
  const int warps = warps_for(problems[0]);
  std::vector<ScanInputs> cast_problems;  // these and their gradients in memory until the launch
  std::vector<Tensor> cast_douts;
  std::vector<ScanPartials> partials;
  std::vector<cuda::ScanBackwardArgs> args;
  for (size_t i = 0; i < problems.size(); ++i) {
    const ScanInputs& x = cast_problems.emplace_back(cast(problems[i]));
    const Tensor& dout = cast_douts.emplace_back(douts[i].to(u.scalar_type()));
    partials.emplace_back(x, warps);
    if (u.numel() > 0) args.push_back(partials.back().args(x, states[i], dout));
  }
  if (u.numel() > 0)
    launch("selective_scan's backward", u, [&](void* stream) {
      return cuda::scan_backward(args.data(), static_cast<int>(args.size()), type_of(u), warps,
                                 stream);
    });
  std::vector<ScanGradients> gradients;
  for (size_t i = 0; i < problems.size(); ++i)
    gradients.push_back(partials[i].gradients(problems[i]));
  return gradients;
}

namespace {

// The operands of a convolution as its kernels see them.
struct ConvOperands {
  Tensor x, weight, bias;
  bool reverse;

  explicit ConvOperands(const ConvInputs& in)
      : x(in.x),
        weight(in.weight.to(at::kFloat).contiguous()),
        bias(optional_to(in.bias, at::kFloat)),
        reverse(in.reverse) {
    if (bias.defined()) bias = bias.contiguous();
  }
  cuda::ConvArgs args() const {
    return {x.size(0),
            x.size(1),
            x.size(2),
            weight.size(2),
            operand(x, reverse),
            pointer(weight),
            pointer(bias)};
  }
};

void check_problems(c10::ArrayRef<ConvInputs> problems) {
  TORCH_INTERNAL_ASSERT(!problems.empty() && problems.size() <= cuda::kMaxProblems);
  const ConvInputs &a = problems.front(), &b = problems.back();
  TORCH_INTERNAL_ASSERT(a.x.sizes() == b.x.sizes() && a.weight.sizes() == b.weight.sizes() &&
                        a.x.scalar_type() == b.x.scalar_type() && a.x.device() == b.x.device() &&
                        value_or_undefined(a.bias).defined() ==
                            value_or_undefined(b.bias).defined());
}

}  // namespace

std::vector<Tensor> conv_forward_cuda(c10::ArrayRef<ConvInputs> problems) {
  check_problems(problems);
  const Tensor& first = problems[0].x;
  const c10::DeviceGuard device(first.device());
  std::vector<ConvOperands> operands;  // in memory until the launch
  std::vector<Tensor> outs;
  std::vector<cuda::ConvForwardArgs> args;
  for (const ConvInputs& problem : problems) {
    const ConvOperands& x = operands.emplace_back(problem);
    const Tensor& out = outs.emplace_back(empty_in_layout_of(x.x, x.x.scalar_type()));
    if (out.numel() > 0) args.push_back({x.args(), operand(out, x.reverse)});
  }
  if (first.numel() > 0)
    launch("causal_conv1d_silu", first, [&](void* stream) {
      return cuda::conv_forward(args.data(), static_cast<int>(args.size()), type_of(first), stream);
    });
  return outs;
}

std::vector<ConvGradients> conv_backward_cuda(c10::ArrayRef<ConvInputs> problems,
                                              at::TensorList douts) {
  check_problems(problems);
  const Tensor& first = problems[0].x;
  const c10::DeviceGuard device(first.device());
  const auto floats = first.options().dtype(at::kFloat);
  const int64_t batch = first.size(0), dim = first.size(1), width = problems[0].weight.size(2);
  std::vector<ConvOperands> operands;  // these and their gradients in memory until the launch
  std::vector<Tensor> cast_douts;
  std::vector<ConvGradients> partials;
  std::vector<cuda::ConvBackwardArgs> args;
  for (size_t i = 0; i < problems.size(); ++i) {
    const ConvOperands& x = operands.emplace_back(problems[i]);
    const Tensor& dout = cast_douts.emplace_back(douts[i].to(first.scalar_type()));
    const auto& [dx, dweight, dbias] = partials.emplace_back(
        empty_in_layout_of(x.x, first.scalar_type()), at::zeros({1, batch, dim, width}, floats),
        at::zeros({1, batch, dim}, floats));
    if (first.numel() > 0)
      args.push_back({x.args(), operand(dout, x.reverse), operand(dx, x.reverse),
                      dweight.mutable_data_ptr<float>(), dbias.mutable_data_ptr<float>()});
  }
  if (first.numel() > 0)
    launch("causal_conv1d_silu's backward", first, [&](void* stream) {
      return cuda::conv_backward(args.data(), static_cast<int>(args.size()), type_of(first),
                                 stream);
    });
  std::vector<ConvGradients> gradients;
  for (size_t i = 0; i < problems.size(); ++i) {
    const auto& [dx, dweight, dbias] = partials[i];
    const Tensor& weight = problems[i].weight;
    Tensor bias;
    if (operands[i].bias.defined())
      bias = sum_parts(dbias).squeeze(0).to(problems[i].bias->scalar_type());
    gradients.emplace_back(
        dx, sum_parts(dweight).view({dim, 1, width}).to(weight.scalar_type()), bias);
  }
  return gradients;
}

}  // namespace vmb
