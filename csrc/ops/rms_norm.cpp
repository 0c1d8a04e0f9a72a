// Root mean square normalization (arXiv 1910.07467) on the CPU, where libtorch composes it of
// several operators:
//
//   out = x rstd weight, rstd = 1 / sqrt(mean(x^2) + eps)
//
// As one node it saves x and one number of each row.
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

// Rows of one partial sum of the weight's gradient; fixed, so that no sum depends on the threads.
constexpr int64_t kRows = 32;

// The sum of f(j) over j < n, in eight lanes whatever the instruction set.
template <class T, class F>
T sum_over(int64_t n, const F& f) {
  constexpr int kLanes = 8;
  T lanes[kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes)
    for (int i = 0; i < kLanes; ++i) lanes[i] += f(j + i);
  for (; j < n; ++j) lanes[0] += f(j);
  T sum = 0;
  for (T lane : lanes) sum += lane;
  return sum;
}

// Calls f(first, end) for blocks of kRows rows on ATen's threads.
template <class F>
void for_blocks(int64_t rows, const F& f) {
  at::parallel_for(0, (rows + kRows - 1) / kRows, 4, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      f(block, block * kRows, std::min(rows, (block + 1) * kRows));
  });
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static Tensor forward(AutogradContext* context, const Tensor& x_, const Tensor& weight,
                        double eps) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor x = x_.contiguous();
    Tensor rstd;
    const Tensor out = run(x, weight, eps, rstd);
    context->save_for_backward({x, weight, rstd});
    return out;
  }

  // x and weight are contiguous.
  static Tensor run(const Tensor& x, const Tensor& weight, double eps, Tensor& rstd) {
    if (launch_counter) launch_counter->add("rms_norm");
    const int64_t dim = weight.numel(), rows = x.numel() / dim;
    const Tensor out = at::empty(x.sizes(), x.options());
    rstd = at::empty({rows}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "rms_norm", [&] {
      const auto *from = x.const_data_ptr<scalar_t>(), *w = weight.const_data_ptr<scalar_t>();
      auto *to = out.mutable_data_ptr<scalar_t>(), *scales = rstd.mutable_data_ptr<scalar_t>();
      for_blocks(rows, [&](int64_t, int64_t first, int64_t end) {
        for (int64_t row = first; row < end; ++row) {
          const scalar_t* a = from + row * dim;
          const scalar_t squares = sum_over<scalar_t>(dim, [&](int64_t j) { return a[j] * a[j]; });
          const scalar_t scale = 1 / std::sqrt(squares / dim + static_cast<scalar_t>(eps));
          for (int64_t j = 0; j < dim; ++j) to[row * dim + j] = a[j] * scale * w[j];
          scales[row] = scale;
        }
      });
    });
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& douts) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(),
                                "rms_norm: double backward is not implemented");
    if (launch_counter) launch_counter->add("rms_norm's backward", 2);
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &rstd = saved[2], dout = douts[0].contiguous();
    const int64_t dim = weight.numel(), rows = rstd.numel();
    const Tensor dx = at::empty(x.sizes(), x.options());
    const Tensor dweight = at::empty({1, (rows + kRows - 1) / kRows, dim}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "rms_norm_backward", [&] {
      const auto *of_x = x.const_data_ptr<scalar_t>(), *w = weight.const_data_ptr<scalar_t>(),
                 *of_dout = dout.const_data_ptr<scalar_t>(),
                 *scales = rstd.const_data_ptr<scalar_t>();
      auto *to = dx.mutable_data_ptr<scalar_t>(), *sums = dweight.mutable_data_ptr<scalar_t>();
      for_blocks(rows, [&](int64_t block, int64_t first, int64_t end) {
        scalar_t* const sum = sums + block * dim;
        std::fill_n(sum, dim, scalar_t(0));
        for (int64_t row = first; row < end; ++row) {
          const scalar_t *a = of_x + row * dim, *g = of_dout + row * dim, scale = scales[row];
          const scalar_t projection =
              sum_over<scalar_t>(dim, [&](int64_t j) { return g[j] * w[j] * a[j]; });
          const scalar_t back = projection * scale * scale / dim;
          for (int64_t j = 0; j < dim; ++j) {
            to[row * dim + j] = scale * (g[j] * w[j] - a[j] * back);
            sum[j] += g[j] * a[j] * scale;
          }
        }
      });
    });
    return {dx, ordered_sum(dweight).squeeze(0), Tensor()};
  }
};

}  // namespace
}  // namespace vmb

char* vmb_rms_norm(const void* x_, const void* weight_, double eps, void** out) {
  return vmb::guarded([&] {
    const at::Tensor &x = vmb::tensor(x_), &weight = vmb::tensor(weight_);
    *out = nullptr;
    const auto type = x.scalar_type();
    if (!x.is_cpu() || (type != at::kFloat && type != at::kDouble) ||
        weight.scalar_type() != type || weight.dim() != 1 || x.dim() < 1 || x.numel() == 0 ||
        x.size(-1) != weight.size(0) || !weight.is_contiguous())
      return;
    if (vmb::records_gradients("rms_norm", {x, weight})) {
      *out = new at::Tensor(vmb::RmsNorm::apply(x, weight, eps));
      return;
    }
    at::AutoDispatchBelowADInplaceOrView guard;
    at::Tensor rstd;
    *out = new at::Tensor(vmb::RmsNorm::run(x.contiguous(), weight, eps, rstd));
  });
}
