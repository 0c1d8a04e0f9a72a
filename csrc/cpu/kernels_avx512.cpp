// Compiled with -mavx512f -mavx512dq -mavx512vl -mavx512bw; called only where the processor has
// them. 4 states: their tile's strip stays in 48 KB.
#include "kernel_table.h"

namespace vmb {
const KernelTable<float> kAvx512Float = kernel_table<float, 16, 4>();
}  // namespace vmb
