// The operands of vm_beautynet::selective_scan in one struct, and its conversion from and to the
// dispatcher's argument lists, whose schemas have no structs.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <array>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

namespace vmb {

using OptionalTensor = std::optional<at::Tensor>;

// None for an undefined tensor.
inline OptionalTensor optional(const at::Tensor& x) {
  return x.defined() ? OptionalTensor(x) : std::nullopt;
}

constexpr int64_t kMaxState = 256;

// Named as in mamba-ssm. An absent operand is an undefined tensor.
struct ScanInputs {
  at::Tensor u, delta;    // (batch, dim, length)
  at::Tensor A;           // (dim, state)
  at::Tensor B, C;        // (batch, state, length)
  at::Tensor D;           // (dim), may be absent
  at::Tensor z;           // (batch, dim, length), may be absent
  at::Tensor delta_bias;  // (dim), may be absent
  bool delta_softplus = false, reverse = false;

  int64_t batch() const { return u.size(0); }
  int64_t dim() const { return u.size(1); }
  int64_t length() const { return u.size(2); }
  int64_t state() const { return A.size(1); }

  std::array<at::Tensor, 8> tensors() const { return {u, delta, A, B, C, D, z, delta_bias}; }

  // The operands after `sequence` of u, delta, B, C and z, and `parameter` of A, D and delta_bias.
  template <class S, class P>
  ScanInputs map(const S& sequence, const P& parameter) const {
    const auto if_given = [](const auto& f, const at::Tensor& x) { return x.defined() ? f(x) : x; };
    return {sequence(u),           sequence(delta),
            parameter(A),          sequence(B),
            sequence(C),           if_given(parameter, D),
            if_given(sequence, z), if_given(parameter, delta_bias),
            delta_softplus,        reverse};
  }

  // The operands in the types that kernels compute in, parameters contiguous. Tensors that fit
  // already are not copied.
  ScanInputs cast(at::ScalarType sequences, at::ScalarType parameters) const {
    return map([&](const at::Tensor& x) { return x.to(sequences); },
               [&](const at::Tensor& x) { return x.to(parameters).contiguous(); });
  }
};

// One scan, or several of the same sizes and types (the directions of a mixer) that are computed
// together: they share z, and the output is the mean of theirs. On the CPU, a mixer calls the
// kernels itself (bimamba_cpu.cpp), and there are several only while launches are counted.
using Scans = at::ArrayRef<ScanInputs>;

struct ScanResult {
  at::Tensor out;     // (batch, dim, length), in u's type
  at::Tensor states;  // that backward starts from; empty unless kept
};

// The gradients of scans. The caller allocates those of the sequences, in the operands' types. The
// others are in the type that kernels compute in.
struct ScanGradients {
  at::Tensor du, ddelta;       // (scans, batch, dim, length)
  at::Tensor dz;               // (batch, dim, length), the sum over the scans; may be absent
  at::Tensor dA;               // (scans, dim, state)
  at::Tensor dBC;              // (scans, batch, length, {dB, dC}, state)
  at::Tensor dD, ddelta_bias;  // (scans, dim)
};

// The operands of vm_beautynet::causal_conv1d_silu.
struct ConvInputs {
  at::Tensor x;       // (batch, dim, length)
  at::Tensor weight;  // (dim, 1, width)
  at::Tensor bias;    // (dim), may be absent
  bool reverse = false;
};

// One convolution, or several of the same sizes and types of the same x.
using Convs = at::ArrayRef<ConvInputs>;

// As ScanGradients.
struct ConvGradients {
  at::Tensor dx;       // (batch, dim, length), the sum over the convolutions
  at::Tensor dweight;  // (convolutions, dim, 1, width)
  at::Tensor dbias;    // (convolutions, dim)
};

// In ATen operations, differentiable any number of times.
at::Tensor scan_eager(const ScanInputs& x);
at::Tensor conv_eager(const ConvInputs& in);

// The operators on a device with kernels; the caller has checked the arguments.
ScanResult scan_forward(Scans scans, bool keep_states, std::string_view path);
void scan_backward(Scans scans, const at::Tensor& states, const at::Tensor& dout,
                   ScanGradients& gradients, std::string_view path);
// (convolutions, batch, dim, length), in x's type.
at::Tensor conv_forward(Convs convs, std::string_view path);
// dout (convolutions, batch, dim, length).
void conv_backward(Convs convs, const at::Tensor& dout, ConvGradients& gradients,
                   std::string_view path);

// The argument lists of selective_scan (Path is std::string_view) and of selective_scan_eager
// (without a path).
template <class... Path>
struct ScanSchema {
  using Function = at::Tensor(const at::Tensor& u, const at::Tensor& delta, const at::Tensor& A,
                              const at::Tensor& B, const at::Tensor& C, const OptionalTensor& D,
                              const OptionalTensor& z, const OptionalTensor& delta_bias,
                              bool delta_softplus, bool reverse, Path... path);

  // f as a function of the argument list, for registration.
  template <at::Tensor (*f)(const ScanInputs&, Path...)>
  static at::Tensor unpacked(const at::Tensor& u, const at::Tensor& delta, const at::Tensor& A,
                             const at::Tensor& B, const at::Tensor& C, const OptionalTensor& D,
                             const OptionalTensor& z, const OptionalTensor& delta_bias,
                             bool delta_softplus, bool reverse, Path... path) {
    return f({u, delta, A, B, C, D.value_or(at::Tensor()), z.value_or(at::Tensor()),
              delta_bias.value_or(at::Tensor()), delta_softplus, reverse},
             path...);
  }

  // Calls the registered operator.
  static at::Tensor call(const c10::TypedOperatorHandle<Function>& op, const ScanInputs& x,
                         Path... path) {
    return op.call(x.u, x.delta, x.A, x.B, x.C, optional(x.D), optional(x.z),
                   optional(x.delta_bias), x.delta_softplus, x.reverse, path...);
  }
};

using ScanOp = ScanSchema<std::string_view>;
using EagerScanOp = ScanSchema<>;

}  // namespace vmb
