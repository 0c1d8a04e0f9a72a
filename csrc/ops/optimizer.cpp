// Optimizer steps over many parameters at once, by libtorch's fused and foreach operations. On the
// CPU, threads divide the parameters, and what is done with one parameter is done by one thread: no
// result depends on the number of threads.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "abi.h"
#include "border.h"
#include "launches.h"

namespace {

using at::Tensor;
using vmb::guarded, vmb::tensor, vmb::tensors;

// Whether both tensors have the same layout. A dimension of size 1 may have any stride: the
// gradient of a batch of one often has a different one.
bool same_layout(const Tensor& a, const Tensor& b) {
  if (a.sizes() != b.sizes()) return false;
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) != 1 && a.stride(i) != b.stride(i)) return false;
  }
  return true;
}

// Fused kernels index the elements with plain pointers.
void check_alike(const char* name, const Tensor& parameter, int64_t index,
                 std::initializer_list<const void*> others) {
  for (const void* other : others) {
    const Tensor& t = tensor(other);
    TORCH_CHECK_VALUE(same_layout(t, parameter) && t.dtype() == parameter.dtype() &&
                          t.device() == parameter.device(),
                      name, ": gradient and moments of parameter ", index, " must have its shape ",
                      parameter.sizes(), ", strides, type and device");
  }
}

// Lists of tensors for as many parameters. `of` returns those of some of the parameters.
using List = std::vector<Tensor>;

List of(const List& list, int64_t begin, int64_t end) {
  if (list.empty()) return {};
  return {list.begin() + begin, list.begin() + end};
}

// Calls f(begin, end) for ranges of the parameters that cover `list`.
template <class F>
void for_ranges(const List& list, const F& f) {
  const auto count = static_cast<int64_t>(list.size());
  const auto without_gradients = [&](int64_t begin, int64_t end) {
    at::NoGradGuard no_grad;
    f(begin, end);
  };
  if (count == 0) return;
  // Launches are counted as on a GPU.
  if (!list[0].is_cpu() || vmb::launch_counter) return without_gradients(0, count);
  at::parallel_for(0, count, 1, without_gradients);
}

}  // namespace

void vmb_remove_gradients(void* const* params, int64_t count) {
  for (int64_t i = 0; i < count; ++i) tensor(params[i]).mutable_grad().reset();
}

char* vmb_adamw_step(void* const* params, void* const* grads, void* const* exp_avgs,
                     void* const* exp_avg_sqs, void* const* steps, int64_t count, double lr,
                     double beta1, double beta2, double weight_decay, double eps) {
  return guarded([&] {
    if (count == 0) return;
    for (int64_t i = 0; i < count; ++i) {
      check_alike("adamw_step", tensor(params[i]), i, {grads[i], exp_avgs[i], exp_avg_sqs[i]});
      TORCH_CHECK_VALUE(tensor(steps[i]).numel() == 1, "adamw_step: steps must be scalars");
    }
    const List p = tensors(params, count), g = tensors(grads, count), m = tensors(exp_avgs, count),
               v = tensors(exp_avg_sqs, count), s = tensors(steps, count);
    for_ranges(p, [&](int64_t begin, int64_t end) {
      const List step = of(s, begin, end);
      at::_foreach_add_(step, 1);
      at::_fused_adamw_(of(p, begin, end), of(g, begin, end), of(m, begin, end), of(v, begin, end),
                        {}, step, lr, beta1, beta2, weight_decay, eps, /*amsgrad=*/false,
                        /*maximize=*/false);
    });
  });
}

char* vmb_sgd_step(void* const* params, void* const* grads, void* const* momentum_buffers,
                   int64_t count, double lr, double momentum, int nesterov, double weight_decay) {
  return guarded([&] {
    if (count == 0) return;
    const bool buffered = momentum_buffers != nullptr;
    TORCH_CHECK_VALUE(buffered || momentum == 0, "sgd_step: momentum needs its buffers");
    for (int64_t i = 0; i < count; ++i) {
      check_alike("sgd_step", tensor(params[i]), i,
                  {grads[i], buffered ? momentum_buffers[i] : grads[i]});
    }
    // A buffer of zeros needs no first step of its own: without dampening it becomes the gradient.
    const List p = tensors(params, count), g = tensors(grads, count);
    const List buffers = buffered ? tensors(momentum_buffers, count) : List();
    for_ranges(p, [&](int64_t begin, int64_t end) {
      at::_fused_sgd_(of(p, begin, end), of(g, begin, end), of(buffers, begin, end), weight_decay,
                      momentum, lr, /*dampening=*/0.0, nesterov != 0, /*maximize=*/false,
                      /*is_first_step=*/false);
    });
  });
}

char* vmb_lion_step(void* const* params, void* const* grads, void* const* exp_avgs, int64_t count,
                    double lr, double beta1, double beta2, double weight_decay) {
  return guarded([&] {
    if (count == 0) return;
    for (int64_t i = 0; i < count; ++i)
      check_alike("lion_step", tensor(params[i]), i, {grads[i], exp_avgs[i]});
    const List p = tensors(params, count), g = tensors(grads, count), m = tensors(exp_avgs, count);
    const auto step = [&](int64_t begin, int64_t end) {
      const List param = of(p, begin, end), grad = of(g, begin, end), exp_avg = of(m, begin, end);
      const List update = at::_foreach_lerp(exp_avg, grad, 1 - beta1);
      at::_foreach_sign_(update);
      if (weight_decay != 0) at::_foreach_mul_(param, 1 - lr * weight_decay);
      at::_foreach_add_(param, update, -lr);
      at::_foreach_lerp_(exp_avg, grad, 1 - beta2);
    };
    for_ranges(p, [&](int64_t begin, int64_t end) {
      if (!p[begin].is_cpu() || vmb::launch_counter) return step(begin, end);
      // One after the other: each has an update of its size.
      for (int64_t i = begin; i < end; ++i) step(i, i + 1);
    });
  });
}

char* vmb_ema_update(void* const* averages, void* const* values, int64_t count, double weight) {
  return guarded([&] {
    const List average = tensors(averages, count), value = tensors(values, count);
    for_ranges(average, [&](int64_t begin, int64_t end) {
      at::_foreach_lerp_(of(average, begin, end), of(value, begin, end), weight);
    });
  });
}

char* vmb_add_gradient(const void* parameter, const void* gradient) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    Tensor& sum = tensor(parameter).mutable_grad();
    const Tensor& added = tensor(gradient);
    if (!added.defined()) return;
    if (sum.defined()) {
      sum.add_(added);
    } else if (added.use_count() == 1 && added.storage().use_count() == 1 &&
               added.is_non_overlapping_and_dense() && same_layout(added, tensor(parameter))) {
      sum = added.detach();  // nothing else has these elements
    } else {
      sum = at::empty_like(tensor(parameter).detach()).copy_(added);
    }
  });
}

char* vmb_clip_grad_norm(void* const* grads, int64_t count, double max_norm, double* norm) {
  return guarded([&] {
    *norm = 0;
    if (count == 0) return;
    at::NoGradGuard no_grad;
    const List g = tensors(grads, count);
    List norms(g.size());
    for_ranges(g, [&](int64_t begin, int64_t end) {
      const List found = at::_foreach_norm(of(g, begin, end), 2);
      std::copy(found.begin(), found.end(), norms.begin() + begin);
    });
    *norm = at::linalg_vector_norm(at::stack(norms)).item<double>();
    if (!(max_norm > 0 && *norm > max_norm)) return;
    for_ranges(g, [&](int64_t begin, int64_t end) {
      at::_foreach_mul_(of(g, begin, end), max_norm / (*norm + 1e-6));
    });
  });
}
