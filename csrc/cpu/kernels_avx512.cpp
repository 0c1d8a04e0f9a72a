// Compiled with -mavx512f -mavx512dq -mavx512vl -mavx512bw; called only where the processor has
// them. 32 registers: 8 states.
#include "kernel_table.h"

namespace vmb {
const KernelTable<float> kAvx512Float = kernel_table<float, 16, 8>();
}  // namespace vmb
