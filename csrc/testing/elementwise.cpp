// The functions that the CPU kernels compute with, value by value: tests/library/elementwise.rs
// measures their accuracy. Compiled once per instruction set, with VMB_WIDTH lanes, and linked into
// test programs only.
#include <cstdint>

#include "cpu/vec_math.h"

// y is read by exp2_product alone; function: 0 exp2_product, 1 exp, 2 softplus, 3 sigmoid.
extern "C" void VMB_ELEMENTWISE(int function, const float* x, const float* y, float* out,
                                int64_t count) {
  using V = Vec<float, VMB_WIDTH>;
  for (int64_t i = 0; i < count; i += VMB_WIDTH) {
    const int64_t lanes = count - i < VMB_WIDTH ? count - i : VMB_WIDTH;
    V a{}, b{}, value{};
    for (int64_t c = 0; c < lanes; ++c) a[c] = x[i + c], b[c] = y[i + c];
    switch (function) {
      case 0: value = exp2_product<V>(a, b); break;
      case 1: value = exp_of<V>(a); break;
      case 2: value = a, softpluses<1>(&value); break;
      case 3: sigmoids<1>(&a, &value); break;
    }
    for (int64_t c = 0; c < lanes; ++c) out[i + c] = value[c];
  }
}
