// Which GPUs there are, and how they compute float32.
#include <ATen/Context.h>
#ifdef VMB_CUDA
#include <c10/cuda/CUDAException.h>
#include <cuda_runtime_api.h>
#endif

#include <cstring>

#include "abi.h"
#include "border.h"

char* vmb_gpu_count(int* count) {
  *count = 0;
#ifdef VMB_CUDA
  // Unlike at::cuda::device_count, this says why there is none, and prints nothing.
  const cudaError_t error = cudaGetDeviceCount(count);
  if (error == cudaSuccess) return nullptr;
  (void)cudaGetLastError();  // the next call must not find this error
  int driver = 0;
  const bool has_driver = cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0;
  // CUDA would say that the driver is too old.
  return vmb::copy_message(has_driver ? cudaGetErrorString(error) : "no NVIDIA driver");
#else
  return nullptr;
#endif
}

char* vmb_gpu_properties(int index, vmb_gpu* gpu) {
  return vmb::guarded([&] {
#ifdef VMB_CUDA
    cudaDeviceProp found;
    C10_CUDA_CHECK(cudaGetDeviceProperties(&found, index));
    static_assert(sizeof(gpu->name) == sizeof(found.name));
    static_assert(sizeof(gpu->uuid) == sizeof(found.uuid));
    std::memcpy(gpu->name, found.name, sizeof(gpu->name));
    std::memcpy(gpu->uuid, &found.uuid, sizeof(gpu->uuid));
    gpu->compute_capability = 10 * found.major + found.minor;
    gpu->memory_bytes = static_cast<int64_t>(found.totalGlobalMem);
#else
    (void)gpu;
    TORCH_CHECK(false, "there is no GPU ", index, " in a build for the CPU");
#endif
  });
}

void vmb_cuda_versions(int* driver, int* runtime) {
  *driver = *runtime = 0;
#ifdef VMB_CUDA
  if (cudaDriverGetVersion(driver) != cudaSuccess) *driver = 0;
  if (cudaRuntimeGetVersion(runtime) != cudaSuccess) *runtime = 0;
#endif
}

void vmb_set_gpu_math(int tf32, int deterministic) {
  at::Context& context = at::globalContext();
  context.setAllowTF32CuDNN(tf32);
  context.setAllowTF32CuBLAS(tf32);
  context.setBenchmarkCuDNN(false);
  context.setDeterministicCuDNN(deterministic);
  // The backward passes of the fused attention kernels add with atomics.
  context.setSDPUseFlash(!deterministic);
  context.setSDPUseMemEfficient(!deterministic);
  context.setSDPUseCuDNN(!deterministic);
}

int vmb_gpu_math_uses_tf32(void) {
  return at::globalContext().allowTF32CuDNN() || at::globalContext().allowTF32CuBLAS();
}
