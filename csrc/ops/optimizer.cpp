// Optimizer steps over many parameters at once, by libtorch's fused and foreach operations.
#include <ATen/ATen.h>

#include <initializer_list>

#include "abi.h"
#include "border.h"

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

}  // namespace

void vmb_remove_gradients(void* const* params, int64_t count) {
  for (int64_t i = 0; i < count; ++i) tensor(params[i]).mutable_grad().reset();
}

char* vmb_adamw_step(void* const* params, void* const* grads, void* const* exp_avgs,
                     void* const* exp_avg_sqs, void* const* steps, int64_t count, double lr,
                     double beta1, double beta2, double weight_decay, double eps) {
  return guarded([&] {
    if (count == 0) return;
    at::NoGradGuard no_grad;
    for (int64_t i = 0; i < count; ++i) {
      check_alike("adamw_step", tensor(params[i]), i, {grads[i], exp_avgs[i], exp_avg_sqs[i]});
      TORCH_CHECK_VALUE(tensor(steps[i]).numel() == 1, "adamw_step: steps must be scalars");
    }
    auto step_list = tensors(steps, count);
    at::_foreach_add_(step_list, 1);
    at::_fused_adamw_(tensors(params, count), tensors(grads, count), tensors(exp_avgs, count),
                      tensors(exp_avg_sqs, count), {}, step_list, lr, beta1, beta2, weight_decay,
                      eps, /*amsgrad=*/false, /*maximize=*/false);
  });
}

char* vmb_sgd_step(void* const* params, void* const* grads, void* const* momentum_buffers,
                   int64_t count, double lr, double momentum, int nesterov, double weight_decay) {
  return guarded([&] {
    if (count == 0) return;
    at::NoGradGuard no_grad;
    const bool buffered = momentum_buffers != nullptr;
    TORCH_CHECK_VALUE(buffered || momentum == 0, "sgd_step: momentum needs its buffers");
    for (int64_t i = 0; i < count; ++i) {
      check_alike("sgd_step", tensor(params[i]), i,
                  {grads[i], buffered ? momentum_buffers[i] : grads[i]});
    }
    // A buffer of zeros needs no first step of its own: without dampening it becomes the gradient.
    at::_fused_sgd_(tensors(params, count), tensors(grads, count),
                    buffered ? tensors(momentum_buffers, count) : std::vector<Tensor>(),
                    weight_decay, momentum, lr, /*dampening=*/0.0, nesterov != 0,
                    /*maximize=*/false, /*is_first_step=*/false);
  });
}

char* vmb_lion_step(void* const* params, void* const* grads, void* const* exp_avgs, int64_t count,
                    double lr, double beta1, double beta2, double weight_decay) {
  return guarded([&] {
    if (count == 0) return;
    at::NoGradGuard no_grad;
    for (int64_t i = 0; i < count; ++i)
      check_alike("lion_step", tensor(params[i]), i, {grads[i], exp_avgs[i]});
    auto param_list = tensors(params, count);
    auto grad_list = tensors(grads, count);
    auto exp_avg_list = tensors(exp_avgs, count);
    auto update = at::_foreach_lerp(exp_avg_list, grad_list, 1 - beta1);
    at::_foreach_sign_(update);
    if (weight_decay != 0) at::_foreach_mul_(param_list, 1 - lr * weight_decay);
    at::_foreach_add_(param_list, update, -lr);
    at::_foreach_lerp_(exp_avg_list, grad_list, 1 - beta2);
  });
}
