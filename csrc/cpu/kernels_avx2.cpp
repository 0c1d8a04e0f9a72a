// Compiled with -mavx2 -mfma; called only where the processor has both. 16 registers: 4 states and
// their companions.
#include "kernel_table.h"

namespace vmb {
const KernelTable<float> kAvx2Float = kernel_table<float, 8, 4>();
}  // namespace vmb
