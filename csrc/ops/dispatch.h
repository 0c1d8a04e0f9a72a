// Selects the kernels of an instruction set and runs them on ATen's thread pool.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "cpu/kernels.h"

namespace vmb {

// Whether this processor can run the kernels of the path: "portable", "avx2" or "avx512".
bool path_available(std::string_view path);

// The kernels of a path; "auto" selects the widest that the processor supports. Double always uses
// the portable ones. Throws c10::Error for a path that is unknown or not supported.
template <class T>
const KernelTable<T>& kernels(std::string_view path);

// The path that "auto" means on this machine.
std::string_view best_path();

// Runs f(begin, end, workspace) over the work items [0, items) on ATen's threads, each with its own
// workspace. The memory comes from libtorch's allocator, so that its profilers see it.
template <class F>
void parallel_items(int64_t items, int64_t workspace_bytes, const F& f) {
  const int64_t slots = std::min<int64_t>(items, at::get_num_threads());
  const int64_t bytes = (workspace_bytes + 63) / 64 * 64;
  const c10::DataPtr memory = c10::GetCPUAllocator()->allocate(slots * bytes + 64);
  char* const start =
      reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(memory.get()) + 63) / 64 * 64);
  std::atomic<int64_t> taken{0};
  at::parallel_for(0, items, 1, [&](int64_t begin, int64_t end) {
    const int64_t slot = taken.fetch_add(1);
    TORCH_INTERNAL_ASSERT(slot < slots, "more ranges than threads");
    f(begin, end, start + slot * bytes);
  });
}

// Runs a kernel for the work items of all problems, which have the same sizes. One thread computes
// an item of all of them, so that they can add to the same results.
template <class Args>
void parallel_problems(int64_t items, int64_t workspace_bytes,
                       void (*kernel)(const Args&, int64_t, int64_t, void*),
                       const std::vector<Args>& problems) {
  parallel_items(items, workspace_bytes, [&](int64_t begin, int64_t end, void* workspace) {
    for (const Args& args : problems) kernel(args, begin, end, workspace);
  });
}

// The data of a tensor, null if it is undefined.
template <class T>
const T* data_of(const at::Tensor& x) {
  return x.defined() ? x.const_data_ptr<T>() : nullptr;
}

// A view whose first step is the last of `steps`.
template <class T>
View<T> reversed(View<T> view, int64_t steps) {
  view.data += (steps - 1) * view.step;
  view.step = -view.step;
  return view;
}

// A (batch, rows, steps) tensor as a view for the kernels; reversed: its last step first.
template <class T>
View<T> view_of(const at::Tensor& x, bool reverse = false) {
  if (!x.defined()) return {};
  const View<T> view{const_cast<T*>(x.const_data_ptr<std::remove_const_t<T>>()), x.stride(0),
                     x.stride(1), x.stride(2)};
  return reverse && x.size(2) > 0 ? reversed(view, x.size(2)) : view;
}

// Whether autograd has to record the operator. Throws where it cannot: for a Python subclass, such
// as a fake tensor of torch.compile, that has no data and operators of its own.
bool records_gradients(const char* name, at::TensorList operands);

// An uninitialized dense (batch, dim, length) tensor in the layout of `like`: channels or steps
// innermost.
at::Tensor empty_in_layout_of(const at::Tensor& like, at::ScalarType type);

// As many of those, stacked: (count, batch, dim, length).
at::Tensor empty_stack_in_layout_of(const at::Tensor& like, int64_t count, at::ScalarType type);

// The tensor to write in the type, for the caller's `target`: itself if it has the type.
at::Tensor writable_as(const at::Tensor& target, at::ScalarType type);
// Copies what was written to the target, unless it is the target.
inline void copy_back(const at::Tensor& target, const at::Tensor& written) {
  if (!target.is_same(written)) target.copy_(written);
}

// Adds `count` parts of `values` values that are `apart` values apart, in order.
template <class T>
void sum_in_order(const T* part, int64_t count, int64_t apart, int64_t values, T* sum) {
  std::copy_n(part, values, sum);
  for (int64_t p = 1; p < count; ++p) {
    part += apart;
    for (int64_t j = 0; j < values; ++j) sum[j] += part[j];
  }
}

// The sum over the second dimension of (outer, count, ...) partial sums, in index order for any
// number of threads.
at::Tensor ordered_sum(const at::Tensor& partials);

// The type in which the kernels compute for an input of this type: double for double, float for
// every other.
inline at::ScalarType compute_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace vmb
