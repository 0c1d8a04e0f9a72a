// Layer normalization (arXiv 1607.06450) and RMS normalization (1910.07467) on the CPU, with the
// residual addition before them, as one node of autograd:
//
//   sum = x + factors update
//   out = (sum - mean) rstd weight + bias, rstd = 1 / sqrt(var + eps)
//
// Without a bias it is the RMS norm: mean is 0, and rstd = 1 / sqrt(mean(sum^2) + eps). Both
// results are returned, and backward adds their gradients in one pass: a residual stream needs no
// addition of its own. It saves the sum and one or two numbers of each row.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "abi.h"
#include "border.h"
#include "dispatch.h"
#include "launches.h"
#include "scan_inputs.h"

namespace vmb {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct NormOperands {
  Tensor x, update, factors, weight, bias;  // all but x may be undefined
  double eps;

  // In the type and layout that the kernels read.
  NormOperands prepared() const {
    const auto in_type = [&](const Tensor& t) {
      return t.defined() ? t.to(x.scalar_type()).contiguous() : t;
    };
    return {x.contiguous(), in_type(update), in_type(factors), weight, bias, eps};
  }
  int64_t dim() const { return x.size(-1); }
  int64_t rows() const { return x.numel() / dim(); }
  int64_t rows_per_factor() const { return factors.defined() ? rows() / factors.numel() : rows(); }
};

template <class T>
T* writable_data_of(const Tensor& x) {
  return x.defined() ? x.mutable_data_ptr<T>() : nullptr;
}

// Calls f(begin, end) for ranges of blocks of rows on ATen's threads.
template <class F>
void for_blocks(int64_t rows, const F& f) {
  at::parallel_for(0, (rows + kNormRows - 1) / kNormRows, 4, f);
}

// The results; undefined where there is no weight, and no update. The statistics are those of each
// row.
struct NormResult {
  Tensor out, sum, mean, rstd;
};

NormResult norm_forward(const NormOperands& in) {
  NormResult result;
  if (launch_counter) launch_counter->add("rms_norm");
  if (in.update.defined()) result.sum = at::empty_like(in.x);
  if (in.weight.defined()) {
    result.out = at::empty_like(in.x);
    result.rstd = at::empty({in.rows()}, in.x.options());
    if (in.bias.defined()) result.mean = at::empty_like(result.rstd);
  }
  AT_DISPATCH_FLOATING_TYPES(in.x.scalar_type(), "norm", [&] {
    using T = scalar_t;
    const NormForwardArgs<T> args{
        in.rows(), in.dim(), data_of<T>(in.x), data_of<T>(in.update), data_of<T>(in.factors),
        in.rows_per_factor(), data_of<T>(in.weight), data_of<T>(in.bias), static_cast<T>(in.eps),
        writable_data_of<T>(result.sum), writable_data_of<T>(result.out),
        writable_data_of<T>(result.mean), writable_data_of<T>(result.rstd)};
    const auto& table = kernels<T>("auto");
    for_blocks(args.rows,
               [&](int64_t begin, int64_t end) { table.norm_forward(args, begin, end); });
  });
  return result;
}

struct NormFunction : torch::autograd::Function<NormFunction> {
  // Returns {sum} without a weight, and {sum, out} with one.
  static variable_list forward(AutogradContext* context, const Tensor& x,
                               const OptionalTensor& update_, const OptionalTensor& factors,
                               const OptionalTensor& weight_, const OptionalTensor& bias_,
                               double eps) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto or_undefined = [](const OptionalTensor& t) { return t.value_or(Tensor()); };
    const Tensor update = or_undefined(update_), weight = or_undefined(weight_),
                 bias = or_undefined(bias_);
    const NormOperands in =
        NormOperands{x, update, or_undefined(factors), weight, bias, eps}.prepared();
    const NormResult result = norm_forward(in);
    const Tensor& summed = update.defined() ? result.sum : in.x;
    context->set_materialize_grads(false);
    context->saved_data["update"] = update.defined();
    if (update.defined()) context->saved_data["type"] = update.scalar_type();
    if (!weight.defined()) {
      context->save_for_backward({Tensor(), in.factors});
      return {summed};
    }
    context->save_for_backward({summed, in.factors, weight, bias, result.mean, result.rstd});
    return {update.defined() ? summed : x, result.out};
  }

  static variable_list backward(AutogradContext* context, const variable_list& douts) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(),
                                "norm: double backward is not implemented");
    if (launch_counter) launch_counter->add("rms_norm's backward", 2);
    const auto saved = context->get_saved_variables();
    const Tensor &dsum = douts[0], &factors = saved[1];
    const bool has_update = context->saved_data["update"].toBool();
    variable_list gradients(6);
    if (douts.size() > 1 && douts[1].defined()) {
      gradients = norm_backward(saved, has_update, dsum, douts[1]);
    } else if (dsum.defined()) {
      gradients[0] = dsum;
      if (has_update && factors.defined())
        gradients[1] = (dsum.reshape({factors.numel(), -1}) * factors.view({-1, 1})).view_as(dsum);
    }
    if (!has_update || !gradients[0].defined()) return gradients;
    const Tensor dupdate = factors.defined() ? gradients[1] : gradients[0];
    gradients[1] = dupdate.to(context->saved_data["type"].toScalarType());
    return gradients;
  }

  // The gradients of forward's arguments; that of an update without factors is that of x.
  static variable_list norm_backward(const variable_list& saved, bool has_update,
                                     const Tensor& dsum_, const Tensor& dout_) {
    const Tensor &x = saved[0], &factors = saved[1], &weight = saved[2], &bias = saved[3],
                 dout = dout_.contiguous(), dsum = dsum_.defined() ? dsum_.contiguous() : dsum_;
    const int64_t dim = weight.numel(), rows = x.numel() / dim;
    const Tensor dx = at::empty_like(x),
                 dupdate = has_update && factors.defined() ? at::empty_like(x) : Tensor(),
                 // Partial sums of the weight's gradient, and of the bias's.
                 partial = at::empty({bias.defined() ? 2 : 1, (rows + kNormRows - 1) / kNormRows,
                                      dim}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "norm_backward", [&] {
      using T = scalar_t;
      T* const sums = partial.mutable_data_ptr<T>();
      const NormBackwardArgs<T> args{
          rows, dim, data_of<T>(x), data_of<T>(dout), data_of<T>(dsum), data_of<T>(factors),
          factors.defined() ? rows / factors.numel() : rows, data_of<T>(weight),
          data_of<T>(saved[4]), data_of<T>(saved[5]), writable_data_of<T>(dx),
          writable_data_of<T>(dupdate), sums,
          bias.defined() ? sums + partial.stride(0) : nullptr};
      const auto& table = kernels<T>("auto");
      for_blocks(rows, [&](int64_t begin, int64_t end) { table.norm_backward(args, begin, end); });
    });
    const Tensor parameters = ordered_sum(partial);
    return {dx, dupdate, Tensor(), parameters[0], bias.defined() ? parameters[1] : Tensor(),
            Tensor()};
  }
};

bool norm_has_kernels(const NormOperands& in) {
  const auto type = in.x.scalar_type();
  // Launches are counted as on a GPU, where libtorch's RMS norm is one of them.
  if (launch_counter && (in.update.defined() || in.bias.defined() || !in.weight.defined()))
    return false;
  if ((type != at::kFloat && type != at::kDouble) || in.x.numel() == 0 ||
      in.x.dim() < 1)
    return false;
  for (const Tensor& t : {in.x, in.update, in.factors, in.weight, in.bias})
    if (t.defined() && !t.is_cpu()) return false;
  for (const Tensor& t : {in.weight, in.bias})
    if (t.defined() && (t.scalar_type() != type || t.sizes() != at::IntArrayRef(in.dim()) ||
                        !t.is_contiguous()))
      return false;
  if (in.update.defined() && in.update.sizes() != in.x.sizes()) return false;
  return !in.factors.defined() ||
         (in.update.defined() && in.x.dim() > 1 && in.factors.numel() == in.x.size(0));
}

}  // namespace
}  // namespace vmb

char* vmb_norm(const void* x, const void* update, const void* factors, const void* weight,
               const void* bias, double eps, void** sum, void** out) {
  return vmb::guarded([&] {
    const vmb::NormOperands in{vmb::tensor(x),
                               vmb::tensor_or_undefined(update),
                               vmb::tensor_or_undefined(factors),
                               vmb::tensor_or_undefined(weight),
                               vmb::tensor_or_undefined(bias),
                               eps};
    *sum = *out = nullptr;
    if (!vmb::norm_has_kernels(in)) return;
    if (vmb::records_gradients("norm", {in.x, in.update, in.weight, in.bias})) {
      using Optional = vmb::OptionalTensor;
      const auto results =
          vmb::NormFunction::apply(in.x, Optional(in.update), Optional(in.factors),
                                   Optional(in.weight), Optional(in.bias), eps);
      // On a GPU the gradients of both results are added apart.
      *sum = new at::Tensor(vmb::launch_counter ? in.x : results[0]);
      if (results.size() > 1) *out = new at::Tensor(results[1]);
      return;
    }
    at::AutoDispatchBelowADInplaceOrView guard;
    const vmb::NormResult result = vmb::norm_forward(in.prepared());
    *sum = new at::Tensor(in.update.defined() ? result.sum : in.x);
    if (in.weight.defined()) *out = new at::Tensor(result.out);
  });
}
