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

// Activations in u's type, parameters in contiguous float; tensors that are so already are not
// copied.
struct ScanOperands {
  Tensor u, delta, A, B, C, D, z, delta_bias;
  int warps;

  ScanOperands(const Tensor& u_, const Tensor& delta_, const Tensor& A_, const Tensor& B_,
               const Tensor& C_, const OptionalTensor& D_, const OptionalTensor& z_,
               const OptionalTensor& delta_bias_)
      : u(u_),
        delta(delta_.to(u_.scalar_type())),
        A(A_.to(at::kFloat).contiguous()),
        B(B_.to(u_.scalar_type())),
        C(C_.to(u_.scalar_type())),
        D(optional_to(D_, at::kFloat)),
        z(optional_to(z_, u_.scalar_type())),
        delta_bias(optional_to(delta_bias_, at::kFloat)) {
    if (D.defined()) D = D.contiguous();
    if (delta_bias.defined()) delta_bias = delta_bias.contiguous();
    warps = cuda::scan_warps(u.size(0), u.size(1), cuda::multiprocessors(u.get_device()));
  }
  cuda::ScanArgs args(bool delta_softplus, bool reverse) const {
    return {u.size(0),           u.size(1),
            u.size(2),           A.size(1),
            operand(u, reverse), operand(delta, reverse),
            operand(z, reverse), operand(B, reverse),
            operand(C, reverse), A.const_data_ptr<float>(),
            pointer(D),          pointer(delta_bias),
            delta_softplus};
  }
  static const float* pointer(const Tensor& x) {
    return x.defined() ? x.const_data_ptr<float>() : nullptr;
  }
};

// sum over p of parts[:, p]: (outer, count, ...) -> (outer, ...), in the order of p.
Tensor sum_parts(const Tensor& parts, void* stream) {
  if (parts.size(1) == 1) return parts.squeeze(1);
  auto shape = parts.sizes().vec();
  shape.erase(shape.begin() + 1);
  Tensor out = at::empty(shape, parts.options());
  const int64_t outer = parts.size(0), count = parts.size(1);
  if (out.numel() == 0 || count == 0) return out.zero_();
  check_launch(cuda::sum_parts(parts.const_data_ptr<float>(), out.mutable_data_ptr<float>(), outer,
                               count, out.numel() / outer, stream),
               "sum_parts");
  return out;
}

void* stream_of(const Tensor& x) {
  return c10::cuda::getCurrentCUDAStream(x.device().index()).stream();
}

}  // namespace

std::tuple<Tensor, Tensor> scan_forward_cuda(const Tensor& u, const Tensor& delta, const Tensor& A,
                                             const Tensor& B, const Tensor& C,
                                             const OptionalTensor& D, const OptionalTensor& z,
                                             const OptionalTensor& delta_bias, bool delta_softplus,
                                             bool reverse, bool keep_states) {
  const c10::cuda::CUDAGuard device(u.device());
  const ScanOperands x(u, delta, A, B, C, D, z, delta_bias);
  const auto floats = u.options().dtype(at::kFloat);
  const int64_t batch = u.size(0), dim = u.size(1), length = u.size(2), state = A.size(1);
  Tensor out = empty_in_layout_of(u, u.scalar_type());
  Tensor states = at::empty({0}, floats);
  if (out.numel() == 0) return {out, states};
  cuda::ScanForwardArgs args{x.args(delta_softplus, reverse), operand(out, reverse), nullptr, 0};
  const int64_t slot = batch * dim * cuda::padded_state(state);
  if (keep_states) {
    states = at::empty({cuda::tiles(length) * slot}, floats);
    args.states_stride = slot;
  } else if (state > cuda::kStates) {
    states = at::empty({slot}, floats);
  }
  if (states.numel() > 0) args.states = states.mutable_data_ptr<float>();
  check_launch(cuda::scan_forward(args, type_of(u), x.warps, stream_of(u)), "selective_scan");
  return {out, states};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> scan_backward_cuda(
    const Tensor& dout_, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
    const Tensor& C, const OptionalTensor& D, const OptionalTensor& z,
    const OptionalTensor& delta_bias, const Tensor& states, bool delta_softplus, bool reverse) {
  const c10::cuda::CUDAGuard device(u.device());
  const ScanOperands x(u, delta, A, B, C, D, z, delta_bias);
  void* const stream = stream_of(u);
  const auto type = u.scalar_type();
  const auto floats = u.options().dtype(at::kFloat);
  const int64_t batch = u.size(0), dim = u.size(1), length = u.size(2), state = A.size(1),
                padded = cuda::padded_state(state);
  const Tensor dout = dout_.to(type);
  Tensor du = empty_in_layout_of(u, type), ddelta = empty_in_layout_of(delta, type);
  Tensor dz = x.z.defined() ? empty_in_layout_of(x.z, type) : Tensor();
  Tensor dA = at::empty({1, batch, dim, padded}, floats), dD = at::empty({1, batch, dim}, floats),
         dbias = at::empty({1, batch, dim}, floats);
  Tensor dBC = at::empty(
      {batch, cuda::channel_blocks(dim, x.warps), length, cuda::passes(state), 2, cuda::kStates},
      floats);
  if (u.numel() == 0) {
    for (Tensor* t : {&dA, &dD, &dbias, &dBC}) t->zero_();
  } else {
    Tensor adjoint = state > cuda::kStates ? at::empty({batch, dim, padded}, floats) : Tensor();
    cuda::ScanBackwardArgs args{};
    args.in = x.args(delta_softplus, reverse);
    args.dout = operand(dout, reverse);
    args.states = states.const_data_ptr<float>(), args.states_stride = batch * dim * padded;
    args.du = operand(du, reverse), args.ddelta = operand(ddelta, reverse),
    args.dz = operand(dz, reverse);
    args.dA = dA.mutable_data_ptr<float>(), args.dD = dD.mutable_data_ptr<float>(),
    args.ddelta_bias = dbias.mutable_data_ptr<float>();
    args.dBC = dBC.mutable_data_ptr<float>(), args.reverse_dBC = reverse;
    args.adjoint = adjoint.defined() ? adjoint.mutable_data_ptr<float>() : nullptr;
    check_launch(cuda::scan_backward(args, type_of(u), x.warps, stream),
                 "selective_scan's backward");
  }
  const Tensor both = sum_parts(dBC, stream);  // (b, l, passes, {dB, dC}, states of a pass)
  auto rows = [&](int64_t which, const Tensor& like) {
    return both.select(3, which)
        .reshape({batch, length, padded})
        .narrow(2, 0, state)
        .transpose(1, 2)
        .to(like.scalar_type());
  };
  auto over_batch = [&](const Tensor& parts, const OptionalTensor& like) {
    return like && like->defined() ? sum_parts(parts, stream).squeeze(0).to(like->scalar_type())
                                   : Tensor();
  };
  return {du,
          ddelta.to(delta.scalar_type()),
          sum_parts(dA, stream).squeeze(0).narrow(1, 0, state).to(A.scalar_type()),
          rows(0, B),
          rows(1, C),
          over_batch(dD, D),
          dz.defined() ? dz.to(z->scalar_type()) : Tensor(),
          over_batch(dbias, delta_bias)};
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
