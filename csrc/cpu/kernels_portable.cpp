// The baseline of the target: any instruction set, float and double. Four lanes suit SSE2 and NEON.
#include "kernel_table.h"

namespace vmb {
const KernelTable<float> kPortableFloat = kernel_table<float, 4, 4>();
const KernelTable<double> kPortableDouble = kernel_table<double, 2, 4>();
}  // namespace vmb
