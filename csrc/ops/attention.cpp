// Multi-head self-attention (arXiv 1706.03762) on the CPU, from the output of the qkv projection,
// as one node of autograd:
//
//   out = softmax(q kᵀ / sqrt(dim)) v, for each head
//
// It reads and writes the projections' own layouts, so nothing is transposed or stacked. It saves
// its input; backward computes the scores again. Half types are computed in float32.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "abi.h"
#include "border.h"
#include "dispatch.h"
#include "launches.h"

namespace vmb {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

AttentionSizes attention_sizes(const Tensor& qkv, int64_t heads) {
  return {qkv.size(0), qkv.size(1), heads, qkv.size(2) / (3 * heads)};
}

template <class T>
T score_scale(const AttentionSizes& size) {
  return static_cast<T>(1 / std::sqrt(static_cast<double>(size.dim)));
}

Tensor in_compute_type(const Tensor& x, const Tensor& qkv) {
  return x.to(compute_type(qkv)).contiguous();
}

// qkv (batch, length, 3 heads dim) to (batch, length, heads dim).
Tensor attention_forward(const Tensor& qkv_, int64_t heads, std::string_view path) {
  const Tensor qkv = in_compute_type(qkv_, qkv_);
  const AttentionSizes size = attention_sizes(qkv, heads);
  const Tensor out = at::empty({size.batch, size.length, size.channels()}, qkv.options());
  AT_DISPATCH_FLOATING_TYPES(qkv.scalar_type(), "attention", [&] {
    const AttentionForwardArgs<scalar_t> args{size, score_scale<scalar_t>(size),
                                              qkv.const_data_ptr<scalar_t>(),
                                              out.mutable_data_ptr<scalar_t>()};
    const auto& table = kernels<scalar_t>(path);
    parallel_items(size.items(), table.attention_workspace(size),
                   [&](int64_t begin, int64_t end, void* workspace) {
                     table.attention_forward(args, begin, end, workspace);
                   });
  });
  return out.to(qkv_.scalar_type());
}

Tensor attention_backward(const Tensor& qkv_, const Tensor& dout_, int64_t heads,
                          std::string_view path) {
  const Tensor qkv = in_compute_type(qkv_, qkv_), dout = in_compute_type(dout_, qkv_);
  const AttentionSizes size = attention_sizes(qkv, heads);
  const Tensor dqkv = at::empty_like(qkv);
  AT_DISPATCH_FLOATING_TYPES(qkv.scalar_type(), "attention_backward", [&] {
    const AttentionBackwardArgs<scalar_t> args{
        size, score_scale<scalar_t>(size), qkv.const_data_ptr<scalar_t>(),
        dout.const_data_ptr<scalar_t>(), dqkv.mutable_data_ptr<scalar_t>()};
    const auto& table = kernels<scalar_t>(path);
    parallel_items(size.items(), table.attention_workspace(size),
                   [&](int64_t begin, int64_t end, void* workspace) {
                     table.attention_backward(args, begin, end, workspace);
                   });
  });
  return dqkv.to(qkv_.scalar_type());
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& qkv, int64_t heads,
                        const std::string& path) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({qkv});
    context->saved_data["heads"] = heads;
    context->saved_data["path"] = path;
    return attention_forward(qkv, heads, path);
  }

  static variable_list backward(AutogradContext* context, const variable_list& douts) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(),
                                "attention: double backward is not implemented");
    const Tensor qkv = context->get_saved_variables()[0];
    return {attention_backward(qkv, douts[0], context->saved_data["heads"].toInt(),
                               context->saved_data["path"].toStringRef()),
            Tensor(), Tensor()};
  }
};

bool attention_has_kernels(const Tensor& qkv, int64_t heads, std::string_view path) {
  // Launches are counted as on a GPU.
  return !launch_counter && (path == "auto" || path_available(path)) && qkv.is_cpu() &&
         at::isFloatingType(qkv.scalar_type()) && qkv.dim() == 3 && qkv.numel() > 0 &&
         heads > 0 && qkv.size(2) % (3 * heads) == 0;
}

}  // namespace
}  // namespace vmb

char* vmb_attention(const void* qkv_, int64_t heads, const char* path, void** out) {
  return vmb::guarded([&] {
    const at::Tensor& qkv = vmb::tensor(qkv_);
    *out = nullptr;
    if (!vmb::attention_has_kernels(qkv, heads, path)) return;
    if (vmb::records_gradients("attention", {qkv})) {
      *out = new at::Tensor(vmb::AttentionFunction::apply(qkv, heads, std::string(path)));
      return;
    }
    at::AutoDispatchBelowADInplaceOrView guard;
    *out = new at::Tensor(vmb::attention_forward(qkv, heads, path));
  });
}
