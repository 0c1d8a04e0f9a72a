// Softmax attention (arXiv 1706.03762) on the CPU as one node of autograd, from the output of the
// projection to queries, keys and values to the input of the projection after it: nothing is
// transposed, stacked or copied. It saves both, and one number of each query and head.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

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
  return {qkv.size(0), heads, qkv.size(1), qkv.size(2) / (3 * heads)};
}

double attention_scale(const AttentionSizes& size) { return 1 / std::sqrt(size.width); }

// qkv is contiguous; without lse nothing is kept for backward.
Tensor attention_forward(const Tensor& qkv, int64_t heads, const Tensor& lse) {
  const AttentionSizes size = attention_sizes(qkv, heads);
  const Tensor out = at::empty({size.batch, size.length, heads * size.width}, qkv.options());
  AT_DISPATCH_FLOATING_TYPES(qkv.scalar_type(), "attention", [&] {
    const AttentionForwardArgs<scalar_t> args{
        size, static_cast<scalar_t>(attention_scale(size)), qkv.const_data_ptr<scalar_t>(),
        out.mutable_data_ptr<scalar_t>(),
        lse.defined() ? lse.mutable_data_ptr<scalar_t>() : nullptr};
    const auto& table = kernels<scalar_t>("auto");
    parallel_items(size.items(), table.attention_workspace(size, /*backward=*/false),
                   [&](int64_t begin, int64_t end, void* workspace) {
                     table.attention_forward(args, begin, end, workspace);
                   });
  });
  return out;
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& qkv_, int64_t heads) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor qkv = qkv_.contiguous(),
                 lse = at::empty({qkv.size(0), heads, qkv.size(1)}, qkv.options()),
                 out = attention_forward(qkv, heads, lse);
    context->save_for_backward({qkv, out, lse});
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& douts) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(),
                                "attention: double backward is not implemented");
    const auto saved = context->get_saved_variables();
    const Tensor &qkv = saved[0], &out = saved[1], &lse = saved[2], dout = douts[0].contiguous(),
                 dqkv = at::empty_like(qkv);
    const AttentionSizes size = attention_sizes(qkv, lse.size(1));
    AT_DISPATCH_FLOATING_TYPES(qkv.scalar_type(), "attention_backward", [&] {
      const AttentionBackwardArgs<scalar_t> args{size,
                                                 static_cast<scalar_t>(attention_scale(size)),
                                                 qkv.const_data_ptr<scalar_t>(),
                                                 out.const_data_ptr<scalar_t>(),
                                                 lse.const_data_ptr<scalar_t>(),
                                                 dout.const_data_ptr<scalar_t>(),
                                                 dqkv.mutable_data_ptr<scalar_t>()};
      const auto& table = kernels<scalar_t>("auto");
      parallel_items(size.items(), table.attention_workspace(size, /*backward=*/true),
                     [&](int64_t begin, int64_t end, void* workspace) {
                       table.attention_backward(args, begin, end, workspace);
                     });
    });
    return {dqkv, Tensor()};
  }
};

}  // namespace
}  // namespace vmb

char* vmb_attention(const void* qkv_, int64_t heads, void** out) {
  return vmb::guarded([&] {
    const at::Tensor& qkv = vmb::tensor(qkv_);
    *out = nullptr;
    const auto type = qkv.scalar_type();
    if (vmb::launch_counter || !qkv.is_cpu() || (type != at::kFloat && type != at::kDouble) ||
        qkv.dim() != 3 || qkv.numel() == 0 || heads < 1 || qkv.size(2) % (3 * heads) != 0)
      return;
    if (vmb::records_gradients("attention", qkv)) {
      *out = new at::Tensor(vmb::AttentionFunction::apply(qkv, heads));
      return;
    }
    at::AutoDispatchBelowADInplaceOrView guard;
    *out = new at::Tensor(vmb::attention_forward(qkv.contiguous(), heads, at::Tensor()));
  });
}
