// Sums of partial results in a fixed order, so that gradients do not depend on the order in which
// blocks run.
#include "device.cuh"

namespace vmb::cuda {
namespace {

struct SumJobs {
  SumJob of[kMaxSums];
};

// Blocks of a sum, which has one thread for each result.
__host__ __device__ int64_t blocks_of(const SumJob& job) {
  return (job.outer * job.inner + kThreads - 1) / kThreads;
}

__global__ void __launch_bounds__(kThreads) sum_parts_kernel(const SumJobs jobs) {
  int block = static_cast<int>(blockIdx.x), number = 0;
  for (; block >= blocks_of(jobs.of[number]); ++number)
    block -= static_cast<int>(blocks_of(jobs.of[number]));
  const SumJob& job = jobs.of[number];
  const unsigned index = block * kThreads + threadIdx.x, inner = static_cast<unsigned>(job.inner);
  if (index >= job.outer * job.inner) return;
  const float* part = job.parts + index / inner * job.count * job.inner + index % inner;
  float sum = 0.0f;
#pragma unroll 8
  for (int p = 0; p < static_cast<int>(job.count); ++p, part += job.inner) sum += *part;
  job.out[index] = sum;
}

}  // namespace

int sum_parts(const SumJob* jobs, int count, void* stream) {
  SumJobs all{};
  int64_t blocks = 0;
  for (int i = 0; i < count; ++i) all.of[i] = jobs[i], blocks += blocks_of(jobs[i]);
  if (blocks == 0) return cudaSuccess;
  if (blocks > 0x7fffffff / kThreads) return cudaErrorInvalidConfiguration;
  sum_parts_kernel<<<static_cast<unsigned>(blocks), kThreads, 0,
                     static_cast<cudaStream_t>(stream)>>>(all);
  return cudaGetLastError();
}

const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace vmb::cuda
