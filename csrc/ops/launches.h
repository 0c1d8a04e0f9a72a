// Counts the CUDA kernels that operators on CPU tensors would launch on a GPU.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

namespace vmb {

// The launches of one thread by operator, and how to count them; launches.cpp says what is counted.
struct LaunchCounter {
  std::map<std::string, int64_t> launches;
  int64_t total = 0;
  int paused = 0;

  void add(const std::string& name, int64_t count = 1) {
    if (paused > 0) return;
    launches[name] += count;
    total += count;
  }
};

// The counter of this thread, null unless launches are counted.
inline thread_local LaunchCounter* launch_counter = nullptr;

// Runs the implementation for the device of x. While launches are counted, a CPU tensor's operator
// counts as what its CUDA implementation launches: that runs first, on uninitialized results.
template <class Cuda, class Cpu>
auto on_device_of(const at::Tensor& x, const Cuda& cuda, const Cpu& cpu) {
  if (x.is_cuda()) return cuda();
  if (!launch_counter) return cpu();
  cuda();
  struct Pause {
    Pause() { ++launch_counter->paused; }
    ~Pause() { --launch_counter->paused; }
  } const pause;
  return cpu();
}

}  // namespace vmb
