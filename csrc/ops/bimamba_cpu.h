// The inner part of a bidirectional mixer on the CPU; see bimamba_inner.cpp for the equations.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <string_view>
#include <vector>

namespace vmb {

// The parameters of one direction, in the order of the argument lists.
constexpr int64_t kParameters = 7;
struct Direction {
  at::Tensor conv_weight, conv_bias;  // (inner, 1, width), (inner)
  at::Tensor x_proj;                  // (rank + 2 state, inner)
  at::Tensor dt_proj, dt_bias;        // (inner, rank), (inner)
  at::Tensor A_log, D;                // (inner, state), (inner)
  bool reverse;

  Direction(at::TensorList p, bool reverse)
      : conv_weight(p[0]),
        conv_bias(p[1]),
        x_proj(p[2]),
        dt_proj(p[3]),
        dt_bias(p[4]),
        A_log(p[5]),
        D(p[6]),
        reverse(reverse) {}
};

// What backward needs of a mixer's forward pass, in the type that kernels compute in.
struct MixerState {
  std::array<at::Tensor, 2> A, low;  // (inner, state); x_proj's output (batch length, P)
  at::Tensor states;                 // of both scans
};

// Computes the mean of both directions, (batch, length, inner) in xz's type. Fills `state` unless
// it is null.
at::Tensor bimamba_forward_cpu(const at::Tensor& xz, at::TensorList parameters,
                               std::string_view path, MixerState* state);

// Returns the gradients of xz and of the parameters, in their types.
std::vector<at::Tensor> bimamba_backward_cpu(const at::Tensor& xz, at::TensorList parameters,
                                             const MixerState& state, const at::Tensor& dout,
                                             std::string_view path);

}  // namespace vmb
