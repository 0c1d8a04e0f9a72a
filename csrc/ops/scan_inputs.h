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

// (output, states that backward starts from; empty unless kept).
using ScanResult = std::tuple<at::Tensor, at::Tensor>;
// In the order of ScanInputs::tensors(); undefined for an absent operand.
using ScanGradients = std::vector<at::Tensor>;

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
    const auto optional = [](const at::Tensor& t) {
      return t.defined() ? OptionalTensor(t) : std::nullopt;
    };
    return op.call(x.u, x.delta, x.A, x.B, x.C, optional(x.D), optional(x.z),
                   optional(x.delta_bias), x.delta_softplus, x.reverse, path...);
  }
};

using ScanOp = ScanSchema<std::string_view>;
using EagerScanOp = ScanSchema<>;

}  // namespace vmb
