// The files that include libtorch's headers, as one translation unit: each of them alone would
// spend most of its compile time on the same headers.
#include "ops/dispatch.cpp"  // first: it specializes templates that the others use
#include "ops/autocast.cpp"
#include "ops/bimamba_cpu.cpp"
#include "ops/bimamba_inner.cpp"
#include "ops/causal_conv1d.cpp"
#include "ops/linear.cpp"
#include "ops/selective_scan.cpp"
#include "cuda/cuda_ops.cpp"
#ifndef VMB_OPERATORS_ONLY  // as in the PyTorch extension, examples/python
#include "ops/abi.cpp"
#include "ops/attention.cpp"
#include "ops/benchmark.cpp"
#include "ops/gpu.cpp"
#include "ops/launches.cpp"
#include "ops/mlp.cpp"
#include "ops/norm.cpp"
#include "ops/optimizer.cpp"
#include "ops/recompute.cpp"
#ifndef VMB_DISTRIBUTED
#include "distributed/distributed_absent.cpp"
#endif
#endif
