// For `vmbeauty benchmark`: gradients for a given gradient of the output, the peak memory of a
// pass, and the arithmetic limit of a scan.
#include <ATen/Parallel.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "abi.h"
#include "border.h"
#include "dispatch.h"

namespace {

using at::Tensor;
using vmb::guarded, vmb::tensor, vmb::tensors;

// libtorch reports every block of memory that it allocates or frees to the current object of
// the thread, and passes that object to the threads of the autograd engine. Its own profiler counts
// memory in the same way.
struct MemoryCounter : c10::MemoryReportingInfoBase {
  int64_t now = 0, start = 0, peak = 0;

  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
    now += bytes;
    peak = std::max(peak, now);
  }
  bool memoryProfilingEnabled() const override { return true; }
};

struct MemoryWatch {
  std::shared_ptr<MemoryCounter> counter = std::make_shared<MemoryCounter>();
  c10::DebugInfoGuard guard{c10::DebugInfoKind::PROFILER_STATE, counter};
};

}  // namespace

char* vmb_gradients(const void* out, const void* dout, void* const* leaves, int64_t count,
                    void** gradients) {
  return guarded([&] {
    const auto found = torch::autograd::grad({tensor(out)}, tensors(leaves, count), {tensor(dout)},
                                             std::nullopt, false, /*allow_unused=*/true);
    for (int64_t i = 0; i < count; ++i)
      gradients[i] = found[i].defined() ? new Tensor(found[i]) : nullptr;
  });
}

char* vmb_memory_watch_begin(void** watch) {
  return guarded([&] { *watch = new MemoryWatch; });
}

int64_t vmb_memory_watch_peak(void* watch) {
  MemoryCounter& counter = *static_cast<MemoryWatch*>(watch)->counter;
  const int64_t extra = counter.peak - counter.start;
  counter.start = counter.peak = counter.now;
  return extra;
}

void vmb_memory_watch_end(void* watch) { delete static_cast<MemoryWatch*>(watch); }

char* vmb_scan_limit(int64_t batch, int64_t dim, int64_t length, int64_t state, int backward,
                     const char* path) {
  return guarded([&] {
    const vmb::ScanSizes size{batch, dim, length, state};
    const auto& table = vmb::kernels<float>(path);
    const auto limit = backward ? table.limit_backward : table.limit_forward;
    at::parallel_for(0, size.items(), 1,
                     [&](int64_t begin, int64_t end) { limit(size, begin, end); });
  });
}
