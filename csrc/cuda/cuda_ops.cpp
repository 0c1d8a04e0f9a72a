#include "cuda_ops.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <limits>

#include "kernels.h"
#include "ops/dispatch.h"

namespace vmb {
namespace {

using at::Tensor;

cuda::Type type_of(const Tensor& x) {
  return x.scalar_type() == at::kFloat  ? cuda::Type::f32
         : x.scalar_type() == at::kHalf ? cuda::Type::f16
                                        : cuda::Type::bf16;
}

void check_launch(int error, const char* what) {
  TORCH_CHECK(error == 0, what, " did not start on the GPU: ", cuda::error_text(error));
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

int warps_for(const ScanInputs& x) {
  return cuda::scan_warps(x.batch(), x.dim(), cuda::multiprocessors(x.u.get_device()));
}

// sum over p of partials[:, p]: (outer, count, ...) -> (outer, ...), in the order of p.
Tensor sum_parts(const Tensor& partials, void* stream) {
  if (partials.size(1) == 1) return partials.squeeze(1);
  auto shape = partials.sizes().vec();
  shape.erase(shape.begin() + 1);
  Tensor out = at::empty(shape, partials.options());
  const int64_t outer = partials.size(0), count = partials.size(1);
  if (out.numel() == 0 || count == 0) return out.zero_();
  check_launch(cuda::sum_parts(partials.const_data_ptr<float>(), out.mutable_data_ptr<float>(),
                               outer, count, out.numel() / outer, stream),
               "sum_parts");
  return out;
}

void* stream_of(const Tensor& x) {
  return c10::cuda::getCurrentCUDAStream(x.device().index()).stream();
}

}  // namespace

ScanResult scan_forward_cuda(const ScanInputs& operands, bool keep_states) {
  const Tensor& u = operands.u;
  const c10::cuda::CUDAGuard device(u.device());
  const ScanInputs x = cast(operands);
  const auto floats = u.options().dtype(at::kFloat);
  Tensor out = empty_in_layout_of(u, u.scalar_type());
  Tensor states = at::empty({0}, floats);
  if (out.numel() == 0) return {out, states};
  cuda::ScanForwardArgs args{kernel_args(x), operand(out, x.reverse), nullptr, 0};
  const int64_t slot = x.batch() * x.dim() * cuda::padded_state(x.state());
  if (keep_states) {
    states = at::empty({cuda::tiles(x.length()) * slot}, floats);
    args.states_stride = slot;
  } else if (x.state() > cuda::kStates) {
    states = at::empty({slot}, floats);
  }
  if (states.numel() > 0) args.states = states.mutable_data_ptr<float>();
  check_launch(cuda::scan_forward(args, type_of(u), warps_for(x), stream_of(u)), "selective_scan");
  return {out, states};
}

ScanGradients scan_backward_cuda(const ScanInputs& operands, const Tensor& states,
                                 const Tensor& dout_) {
  const Tensor& u = operands.u;
  const c10::cuda::CUDAGuard device(u.device());
  const ScanInputs x = cast(operands);
  void* const stream = stream_of(u);
  const auto type = u.scalar_type();
  const auto floats = u.options().dtype(at::kFloat);
  const int warps = warps_for(x);
  const int64_t batch = x.batch(), dim = x.dim(), length = x.length(), state = x.state();
  const int64_t padded = cuda::padded_state(state);
  const Tensor dout = dout_.to(type);
  Tensor du = empty_in_layout_of(u, type), ddelta = empty_in_layout_of(operands.delta, type);
  Tensor dz = x.z.defined() ? empty_in_layout_of(x.z, type) : Tensor();
  Tensor dA = at::empty({1, batch, dim, padded}, floats);
  Tensor dD = at::empty({1, batch, dim}, floats), dbias = at::empty({1, batch, dim}, floats);
  Tensor dBC = at::empty(
      {batch, cuda::channel_blocks(dim, warps), length, cuda::passes(state), 2, cuda::kStates},
      floats);
  if (u.numel() == 0) {
    for (Tensor* t : {&dA, &dD, &dbias, &dBC}) t->zero_();
  } else {
    Tensor adjoint = state > cuda::kStates ? at::empty({batch, dim, padded}, floats) : Tensor();
    cuda::ScanBackwardArgs args{};
    args.in = kernel_args(x);
    args.dout = operand(dout, x.reverse);
    args.states = states.const_data_ptr<float>();
    args.states_stride = batch * dim * padded;
    args.du = operand(du, x.reverse), args.ddelta = operand(ddelta, x.reverse);
    args.dz = operand(dz, x.reverse);
    args.dA = dA.mutable_data_ptr<float>(), args.dD = dD.mutable_data_ptr<float>();
    args.ddelta_bias = dbias.mutable_data_ptr<float>();
    args.dBC = dBC.mutable_data_ptr<float>(), args.reverse_dBC = x.reverse;
    args.adjoint = adjoint.defined() ? adjoint.mutable_data_ptr<float>() : nullptr;
    check_launch(cuda::scan_backward(args, type_of(u), warps, stream), "selective_scan's backward");
  }
  const Tensor both = sum_parts(dBC, stream);  // (b, l, passes, {dB, dC}, states of a pass)
  const auto rows = [&](int64_t which, const Tensor& like) {
    return both.select(3, which)
        .reshape({batch, length, padded})
        .narrow(2, 0, state)
        .transpose(1, 2)
        .to(like.scalar_type());
  };
  const auto over_batch = [&](const Tensor& partials, const Tensor& like) {
    return like.defined() ? sum_parts(partials, stream).squeeze(0).to(like.scalar_type())
                          : Tensor();
  };
  return {du,
          ddelta.to(operands.delta.scalar_type()),
          sum_parts(dA, stream).squeeze(0).narrow(1, 0, state).to(operands.A.scalar_type()),
          rows(0, operands.B),
          rows(1, operands.C),
          over_batch(dD, operands.D),
          dz.defined() ? dz.to(operands.z.scalar_type()) : dz,
          over_batch(dbias, operands.delta_bias)};
}

namespace {

struct ConvOperands {
  Tensor x, weight, bias;
  ConvOperands(const Tensor& x_, const Tensor& weight_, const OptionalTensor& bias_)
      : x(x_), weight(weight_.to(at::kFloat).contiguous()), bias(optional_to(bias_, at::kFloat)) {
    if (bias.defined()) bias = bias.contiguous();
  }
  cuda::ConvArgs args(bool reverse) const {
    return {x.size(0),
            x.size(1),
            x.size(2),
            weight.size(2),
            operand(x, reverse),
            weight.const_data_ptr<float>(),
            bias.defined() ? bias.const_data_ptr<float>() : nullptr};
  }
};

}  // namespace

Tensor conv_forward_cuda(const Tensor& x_, const Tensor& weight, const OptionalTensor& bias,
                         bool reverse) {
  const c10::cuda::CUDAGuard device(x_.device());
  const ConvOperands x(x_, weight, bias);
  Tensor out = empty_in_layout_of(x_, x_.scalar_type());
  if (out.numel() == 0) return out;
  const cuda::ConvForwardArgs args{x.args(reverse), operand(out, reverse)};
  check_launch(cuda::conv_forward(args, type_of(x_), stream_of(x_)), "causal_conv1d_silu");
  return out;
}

std::tuple<Tensor, Tensor, Tensor> conv_backward_cuda(const Tensor& dout_, const Tensor& x_,
                                                      const Tensor& weight,
                                                      const OptionalTensor& bias, bool reverse) {
  const c10::cuda::CUDAGuard device(x_.device());
  const ConvOperands x(x_, weight, bias);
  void* const stream = stream_of(x_);
  const auto floats = x_.options().dtype(at::kFloat);
  const Tensor dout = dout_.to(x_.scalar_type());
  const int64_t batch = x_.size(0), dim = x_.size(1), width = weight.size(2);
  Tensor dx = empty_in_layout_of(x_, x_.scalar_type());
  Tensor dweight = at::zeros({1, batch, dim, width}, floats),
         dbias = at::zeros({1, batch, dim}, floats);
  if (x_.numel() > 0) {
    const cuda::ConvBackwardArgs args{x.args(reverse), operand(dout, reverse), operand(dx, reverse),
                                      dweight.mutable_data_ptr<float>(),
                                      dbias.mutable_data_ptr<float>()};
    check_launch(cuda::conv_backward(args, type_of(x_), stream), "causal_conv1d_silu's backward");
  }
  return {
      dx, sum_parts(dweight, stream).view({dim, 1, width}).to(weight.scalar_type()),
      x.bias.defined() ? sum_parts(dbias, stream).squeeze(0).to(bias->scalar_type()) : Tensor()};
}

}  // namespace vmb
