// Sums of partial results in a fixed order, so that gradients do not depend on the order in which
// blocks run.
#include "device.cuh"

namespace vmb::cuda {
namespace {

__global__ void __launch_bounds__(kThreads)
    sum_parts_kernel(const float* parts, float* out, int64_t outer, int64_t count, int64_t inner) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= outer * inner) return;
  const float* part = parts + index / inner * count * inner + index % inner;
  float sum = 0.0f;
#pragma unroll 4
  for (int64_t p = 0; p < count; ++p, part += inner) sum += *part;
  out[index] = sum;
}

}  // namespace

int sum_parts(const float* parts, float* out, int64_t outer, int64_t count, int64_t inner,
              void* stream) {
  const int64_t blocks = (outer * inner + kThreads - 1) / kThreads;
  if (blocks == 0) return cudaSuccess;
  if (blocks > 0x7fffffff) return cudaErrorInvalidConfiguration;
  sum_parts_kernel<<<static_cast<unsigned>(blocks), kThreads, 0,
                     static_cast<cudaStream_t>(stream)>>>(parts, out, outer, count, inner);
  return cudaGetLastError();
}

const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace vmb::cuda
