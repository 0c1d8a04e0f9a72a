// Matrix products of float32 on the CPU by whichever of libtorch's two libraries is made for the
// processor.
#pragma once

#include <ATen/core/Tensor.h>

namespace vmb {

// Writes a b, (m, k) times (k, n), to `out`, or adds it.
void multiply_matrices(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b,
                       bool add = false);

}  // namespace vmb
