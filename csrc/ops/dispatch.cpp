#include "dispatch.h"

#include <ATen/ATen.h>

namespace vmb {

bool path_available(std::string_view path) {
#if defined(__x86_64__)
  if (path == "avx512")
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("fma");
  if (path == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return path == "portable";
}

std::string_view best_path() {
  for (std::string_view path : {"avx512", "avx2"})
    if (path_available(path)) return path;
  return "portable";
}

static void check_path(std::string_view path) {
  TORCH_CHECK_VALUE(path == "auto" || path == "portable" || path == "avx2" || path == "avx512",
                    "path must be auto, portable, avx2 or avx512, is ", path);
  TORCH_CHECK(path == "auto" || path_available(path), "path ", path,
              " needs instructions that this processor does not have");
}

template <>
const KernelTable<float>& kernels<float>(std::string_view path) {
  check_path(path);
  if (path == "auto") path = best_path();
#if defined(__x86_64__)
  if (path == "avx512") return kAvx512Float;
  if (path == "avx2") return kAvx2Float;
#endif
  return kPortableFloat;
}

template <>
const KernelTable<double>& kernels<double>(std::string_view path) {
  check_path(path);
  return kPortableDouble;
}

at::Tensor empty_in_layout_of(const at::Tensor& like, at::ScalarType type) {
  const auto options = like.options().dtype(type);
  if (like.stride(1) == 1)
    return at::empty({like.size(0), like.size(2), like.size(1)}, options).transpose(1, 2);
  return at::empty(like.sizes(), options);
}

at::Tensor ordered_sum(const at::Tensor& partials) {
  if (partials.size(0) == 0) return at::zeros(partials.sizes().slice(1), partials.options());
  at::Tensor sum = partials.select(0, 0).clone();
  for (int64_t i = 1; i < partials.size(0); ++i) sum.add_(partials.select(0, i));
  return sum;
}

}  // namespace vmb
