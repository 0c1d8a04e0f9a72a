// Matrix products of float32 on the CPU, and the linear layer that they make.
//
// libtorch multiplies float32 matrices with MKL, which takes its AVX-512 kernels on some of the
// processors that have AVX-512 and its AVX2 kernels on the others. On those ours
// (cpu/gemm_kernel.h) multiply: where the processor has AVX-512 and MKL says that it does not use
// it. The choice depends on nothing else, and so is the same in every run.
#include "linear.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "abi.h"
#include "border.h"
#include "dispatch.h"
#include "launches.h"

#if defined(__x86_64__) && defined(__linux__)
// The instruction set that MKL selects, as MKL_CBWR_Get_Auto_Branch of its public interface: below
// 0 where it does not know the processor, and MKL_CBWR_AUTO where that is not Intel's. libtorch
// exports it, and headers do not declare it. Null where a libtorch has none.
extern "C" __attribute__((weak)) int mkl_serv_cbwr_get_auto_branch();
#endif

namespace vmb {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows from which on packing the right matrix pays.
constexpr int64_t kMinRows = 8;

bool mkl_lacks_avx512() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr int kFirstAvx512 = 11;  // MKL_CBWR_AVX512_MIC of mkl_types.h
  static const int branch =
      mkl_serv_cbwr_get_auto_branch ? mkl_serv_cbwr_get_auto_branch() : kFirstAvx512;
  static const bool lacks = path_available("avx512") && branch >= 0 && branch < kFirstAvx512;
  return lacks;
#else
  return false;
#endif
}

// Whether ours is the faster product: the choice depends on nothing that differs from run to run.
bool by_us(const Tensor& a, const Tensor& b, int64_t rows) {
  return rows >= kMinRows && a.is_cpu() && b.is_cpu() && a.scalar_type() == at::kFloat &&
         b.scalar_type() == at::kFloat && mkl_lacks_avx512();
}

// Writes a b + bias to `out`, or adds a b to it: 2-dimensional matrices in float.
void multiply_by_us(const Tensor& out, const Tensor& a, const Tensor& b_, const Tensor& bias,
                    bool add) {
  const Tensor b = b_.stride(0) == 1 || b_.stride(1) == 1 ? b_ : b_.contiguous();
  const Tensor c = out.stride(1) == 1 ? out : at::empty(out.sizes(), out.options());
  if (add && !c.is_same(out)) c.copy_(out);
  const GemmSizes size{a.size(0), b.size(1), a.size(1)};
  const GemmArgs<float> args{size,
                             a.const_data_ptr<float>(),
                             a.stride(0),
                             a.stride(1),
                             b.const_data_ptr<float>(),
                             b.stride(0),
                             b.stride(1) == 1 || b.size(1) == 1 ? 1 : b.stride(1),
                             bias.defined() ? bias.const_data_ptr<float>() : nullptr,
                             c.mutable_data_ptr<float>(),
                             c.stride(0),
                             add};
  const auto& table = kernels<float>("auto");
  parallel_items((size.columns + table.gemm_columns - 1) / table.gemm_columns,
                 table.gemm_workspace(size),
                 [&](int64_t begin, int64_t end, void* workspace) {
                   table.gemm(args, begin, end, workspace);
                 });
  copy_back(out, c);
}

// Computes x weightᵀ + bias: x (…, inputs), weight (outputs, inputs), bias (outputs).
Tensor linear_by_us(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  const Tensor out = at::empty(shape, x.options());
  multiply_by_us(out.flatten(0, -2), x.flatten(0, -2), weight.t(),
                 bias ? bias->contiguous() : Tensor(), /*add=*/false);
  return out;
}

struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& bias) {
    at::AutoDispatchBelowADInplaceOrView guard;
    // Each is for the gradient of the other.
    context->save_for_backward({weight.requires_grad() ? x : Tensor(),
                                x.requires_grad() ? weight : Tensor()});
    context->saved_data["has_bias"] = bias.has_value();
    return linear_by_us(x, weight, bias);
  }

  static variable_list backward(AutogradContext* context, const variable_list& douts) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(),
                                "linear: double backward is not implemented");
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1];
    const Tensor dout = douts[0].flatten(0, -2);
    variable_list gradients(3);
    if (context->needs_input_grad(0)) {
      auto shape = douts[0].sizes().vec();
      shape.back() = weight.size(1);
      gradients[0] = at::empty(shape, dout.options());
      multiply_matrices(gradients[0].flatten(0, -2), dout, weight);
    }
    if (context->needs_input_grad(1)) {
      gradients[1] = at::empty({dout.size(1), x.size(-1)}, dout.options());
      multiply_matrices(gradients[1], dout.t(), x.flatten(0, -2));
    }
    const bool has_bias = context->saved_data["has_bias"].toBool();
    if (has_bias && context->needs_input_grad(2)) gradients[2] = dout.sum(0);
    return gradients;
  }
};

}  // namespace

void multiply_matrices(const Tensor& out, const Tensor& a, const Tensor& b, bool add) {
  if (by_us(a, b, a.size(0))) {
    multiply_by_us(out, a, b, Tensor(), add);
  } else if (add) {
    out.addmm_(a, b);
  } else {
    Tensor target = out;
    at::mm_out(target, a, b);
  }
}

}  // namespace vmb

char* vmb_linear(const void* x_, const void* weight_, const void* bias_, void** out) {
  return vmb::guarded([&] {
    const at::Tensor &x = vmb::tensor(x_), &weight = vmb::tensor(weight_);
    const auto bias = bias_ ? std::optional(vmb::tensor(bias_)) : std::nullopt;
    *out = nullptr;
    // Autocast multiplies in another type; launches are counted as on a GPU.
    if (vmb::launch_counter || at::autocast::is_autocast_enabled(at::kCPU) || x.dim() < 2 ||
        x.numel() == 0 || weight.dim() != 2 || x.size(-1) != weight.size(1) ||
        !vmb::by_us(x, weight, x.numel() / weight.size(1)))
      return;
    if (vmb::records_gradients("linear", {x, weight, bias.value_or(at::Tensor())})) {
      *out = new at::Tensor(vmb::LinearFunction::apply(x, weight, bias));
      return;
    }
    at::AutoDispatchBelowADInplaceOrView guard;
    *out = new at::Tensor(vmb::linear_by_us(x, weight, bias));
  });
}
