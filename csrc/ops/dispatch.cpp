#include "dispatch.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

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

bool records_gradients(const char* name, at::TensorList operands) {
  if (!c10::GradMode::is_enabled() ||
      std::none_of(operands.begin(), operands.end(),
                   [](const at::Tensor& t) { return t.defined() && t.requires_grad(); }))
    return false;
  for (const at::Tensor& t : operands)
    TORCH_CHECK_NOT_IMPLEMENTED(!t.defined() || !t.key_set().has(c10::DispatchKey::Python), name,
                                ": tensor subclasses, such as the fake tensors of torch.compile, "
                                "have no gradient here: exclude the call from compilation");
  return true;
}

at::Tensor empty_in_layout_of(const at::Tensor& like, at::ScalarType type) {
  const auto options = like.options().dtype(type);
  if (like.stride(1) == 1)
    return at::empty({like.size(0), like.size(2), like.size(1)}, options).transpose(1, 2);
  return at::empty(like.sizes(), options);
}

at::Tensor empty_stack_in_layout_of(const at::Tensor& like, int64_t count, at::ScalarType type) {
  const auto options = like.options().dtype(type);
  if (like.stride(1) == 1)
    return at::empty({count, like.size(0), like.size(2), like.size(1)}, options).transpose(2, 3);
  return at::empty({count, like.size(0), like.size(1), like.size(2)}, options);
}

at::Tensor writable_as(const at::Tensor& target, at::ScalarType type) {
  if (!target.defined() || target.scalar_type() == type) return target;
  return at::empty_like(target, target.options().dtype(type));
}

at::Tensor ordered_sum(const at::Tensor& partials) {
  // Elements of one task.
  constexpr int64_t kBlock = 2048;
  auto shape = partials.sizes().vec();
  shape.erase(shape.begin() + 1);
  const int64_t count = partials.size(1);
  if (count == 0) return at::zeros(shape, partials.options());
  at::Tensor sums = at::empty(shape, partials.options());
  if (sums.numel() == 0) return sums;
  const int64_t outer = partials.size(0), inner = sums.numel() / outer,
                blocks = (inner + kBlock - 1) / kBlock;
  AT_DISPATCH_FLOATING_TYPES(partials.scalar_type(), "ordered_sum", [&] {
    const scalar_t* const from = partials.const_data_ptr<scalar_t>();
    scalar_t* const to = sums.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, outer * blocks, 16 / count + 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t o = i / blocks, first = i % blocks * kBlock;
        sum_in_order(from + o * count * inner + first, count, inner,
                     std::min(kBlock, inner - first), to + o * inner + first);
      }
    });
  });
  return sums;
}

}  // namespace vmb
