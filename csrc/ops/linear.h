// Matrix products of float32 on the CPU by whichever of libtorch's two libraries is made for the
// processor.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>

namespace vmb {

// Writes a b, (m, k) times (k, n), to `out`, or adds it.
void multiply_matrices(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b,
                       bool add = false);

// x weightᵀ + bias without autograd: x (…, inputs), weight (outputs, inputs), bias (outputs) or
// undefined.
at::Tensor linear_layer(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

struct LinearGradients {
  at::Tensor x, weight, bias;
};

// The gradients of `linear_layer` that are needed, of x, weight and bias; the others are undefined.
LinearGradients linear_gradients(const at::Tensor& x, const at::Tensor& weight,
                                 const at::Tensor& dout, std::array<bool, 3> needed);

}  // namespace vmb
