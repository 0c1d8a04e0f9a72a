// The inner part of a bidirectional mixer on the CPU. It computes in the kernels' type, and calls
// them with pointers into a few tensors: a small model has few tokens in a batch, and views cost as
// much as the work on them. One thread computes both directions of a work item, so that the second
// adds to the result of the first.
#include "bimamba_cpu.h"

#include <ATen/ATen.h>

#include "dispatch.h"
#include "linear.h"

namespace vmb {
namespace {

using at::Tensor;

template <class T>
class Mixer {
 public:
  Mixer(const Tensor& xz, at::TensorList parameters, std::string_view path)
      : table(kernels<T>(path)),
        type(c10::CppTypeToScalarType<T>::value),
        xz(typed(xz)),
        directions{typed(parameters.slice(0, kParameters), false),
                   typed(parameters.slice(kParameters), true)},
        batch(xz.size(0)),
        length(xz.size(1)),
        inner(xz.size(2) / 2),
        state(directions[0].A_log.size(1)),
        rank(directions[0].dt_proj.size(1)) {}

  Tensor forward(MixerState* kept) const {
    const Both A{rates(directions[0]), rates(directions[1])}, u = convolve(), low = project(u),
               delta = step_sizes(low);
    const Tensor out = empty({batch, length, inner});
    Tensor states;
    std::vector<ScanForwardArgs<T>> scans;
    if (kept) states = empty({2, sizes().checkpoint_elements()});
    for (int64_t i = 0; i < 2; ++i)
      scans.push_back({scan(i, A[i], u[i], low[i], delta[i]), sequence(data(out), inner, i),
                       kept ? data(states) + i * sizes().checkpoint_elements() : nullptr, T(0.5),
                       /*add=*/i > 0});
    parallel_problems(sizes().items(), table.scan_workspace(sizes()), table.scan_forward, scans);
    if (kept) *kept = {A, low, states};
    return out;
  }

  // The gradients of xz and of the parameters, in the order of Direction's.
  std::vector<Tensor> backward(const MixerState& kept, const Tensor& dout_) const {
    const Tensor dout = typed(dout_), dxz = empty({batch, length, 2 * inner});
    const Both u = convolve(), delta = step_sizes(kept.low), du{like(u[0]), like(u[0])};
    const ScanSizes size = sizes();
    // Partial sums; delta is overwritten by its gradient.
    const Tensor dA = empty({2, batch, inner, state}), dD = empty({2, batch, inner}),
                 ddt_bias = like(dD), dBC = empty({2, size.items(), length, 2, state});
    std::vector<ScanBackwardArgs<T>> scans;
    for (int64_t i = 0; i < 2; ++i) {
      T* const dB = data(dBC) + i * dBC.stride(0);
      const auto step_sums = [&](T* first) {
        return view_of_direction({first, length * 2 * state, 1, 2 * state}, i);
      };
      scans.push_back({scan(i, kept.A[i], u[i], kept.low[i], delta[i]),
                       sequence(data(dout), inner, i).read(),
                       data(kept.states) + i * size.checkpoint_elements(),
                       sequence(data(du[i]), inner, i), sequence(data(delta[i]), inner, i),
                       sequence(data(dxz) + inner, 2 * inner, i), T(0.5), /*add_dz=*/i > 0,
                       data(dA) + i * dA.stride(0), data(dD) + i * dD.stride(0),
                       data(ddt_bias) + i * dD.stride(0), step_sums(dB), step_sums(dB + state)});
    }
    parallel_problems(size.items(), table.scan_workspace(size), table.scan_backward, scans);

    std::vector<Tensor> gradients{dxz};
    gradients.resize(1 + 2 * kParameters);
    const Tensor dconv_weight = empty({2, batch, inner, width()}), dconv_bias = like(dD);
    for (int64_t i = 0; i < 2; ++i) {
      Tensor* const of = gradients.data() + 1 + i * kParameters;
      const Direction& d = directions[i];
      const Tensor dlow = low_gradient(dBC, i);
      of[2] = like(d.x_proj), of[3] = like(d.dt_proj);
      multiply_matrices(dlow.narrow(1, 0, rank), delta[i], d.dt_proj);
      multiply_matrices(of[3], delta[i].t(), kept.low[i].narrow(1, 0, rank));
      multiply_matrices(of[2], dlow.t(), u[i]);
      multiply_matrices(du[i], dlow, d.x_proj, /*add=*/true);
      of[4] = batch_sum(ddt_bias, i, d.dt_bias), of[6] = batch_sum(dD, i, d.D);
      of[5] = batch_sum(dA, i, d.A_log).mul_(kept.A[i]);
    }
    std::vector<ConvBackwardArgs<T>> convs;
    for (int64_t i = 0; i < 2; ++i)
      convs.push_back({conv(i), sequence(data(du[i]), inner, i).read(),
                       sequence(data(dxz), 2 * inner, i), /*add_dx=*/i > 0,
                       data(dconv_weight) + i * dconv_weight.stride(0),
                       data(dconv_bias) + i * dconv_bias.stride(0)});
    parallel_problems(convs[0].in.items(), table.conv_workspace, table.conv_backward, convs);
    for (int64_t i = 0; i < 2; ++i) {
      Tensor* const of = gradients.data() + 1 + i * kParameters;
      of[0] = batch_sum(dconv_weight, i, directions[i].conv_weight);
      of[1] = batch_sum(dconv_bias, i, directions[i].conv_bias);
    }
    return gradients;
  }

 private:
  using Both = std::array<Tensor, 2>;

  const KernelTable<T>& table;
  const at::ScalarType type;
  const Tensor xz;  // (batch, length, {x, z}, inner), contiguous
  const std::array<Direction, 2> directions;
  const int64_t batch, length, inner, state, rank;

  Tensor typed(const Tensor& x) const { return x.to(type).contiguous(); }
  Direction typed(at::TensorList p, bool reverse) const {
    std::vector<Tensor> all;
    for (const Tensor& x : p) all.push_back(typed(x));
    return {all, reverse};
  }
  static T* data(const Tensor& x) { return const_cast<T*>(x.const_data_ptr<T>()); }
  Tensor empty(at::IntArrayRef shape) const { return at::empty(shape, xz.options()); }
  static Tensor like(const Tensor& x) { return at::empty_like(x); }
  int64_t width() const { return directions[0].conv_weight.size(2); }
  ScanSizes sizes() const { return {batch, inner, length, state}; }

  // The view of a direction: the second begins with the last step.
  View<T> view_of_direction(const View<T>& view, int64_t direction) const {
    return directions[direction].reverse ? reversed(view, length) : view;
  }
  // (batch, inner, length), from the first of `row` values of each token.
  View<T> sequence(T* first, int64_t row, int64_t direction) const {
    return view_of_direction({first, length * row, 1, row}, direction);
  }

  Tensor rates(const Direction& d) const { return d.A_log.exp().neg_(); }

  ConvArgs<T> conv(int64_t i) const {
    return {batch, inner, length, width(), sequence(data(xz), 2 * inner, i).read(),
            {data(directions[i].conv_weight), 0, width(), 1}, data(directions[i].conv_bias)};
  }

  ScanArgs<T> scan(int64_t i, const Tensor& A, const Tensor& u, const Tensor& low,
                   const Tensor& delta) const {
    const Direction& d = directions[i];
    const auto view = [&](T* first, int64_t row) { return sequence(first, row, i).read(); };
    const int64_t row = low.size(1);
    return {sizes(), view(data(u), inner), view(data(delta), inner),
            view(data(xz) + inner, 2 * inner), view(data(low) + rank, row),
            view(data(low) + rank + state, row), {data(A), 0, state, 1}, data(d.D),
            data(d.dt_bias), /*delta_softplus=*/true};
  }

  // (batch length, inner).
  Both convolve() const {
    const Both u{empty({batch * length, inner}), empty({batch * length, inner})};
    std::vector<ConvForwardArgs<T>> convs;
    for (int64_t i = 0; i < 2; ++i) convs.push_back({conv(i), sequence(data(u[i]), inner, i)});
    parallel_problems(convs[0].in.items(), table.conv_workspace, table.conv_forward, convs);
    return u;
  }

  // x_proj's output, (batch length, rank + 2 state).
  Both project(const Both& u) const {
    Both low;
    for (int64_t i = 0; i < 2; ++i) {
      low[i] = empty({batch * length, rank + 2 * state});
      multiply_matrices(low[i], u[i], directions[i].x_proj.t());
    }
    return low;
  }

  // (batch length, inner).
  Both step_sizes(const Both& low) const {
    Both delta;
    for (int64_t i = 0; i < 2; ++i) {
      delta[i] = empty({batch * length, inner});
      multiply_matrices(delta[i], low[i].narrow(1, 0, rank), directions[i].dt_proj.t());
    }
    return delta;
  }

  // The gradient of x_proj's output: the sums of those of B and C over the groups of channels, in
  // order. The first `rank` of each row are still to be computed.
  Tensor low_gradient(const Tensor& dBC, int64_t direction) const {
    const int64_t row = rank + 2 * state, groups = sizes().groups(), of_group = length * 2 * state;
    const Tensor dlow = empty({batch * length, row});
    const T* const parts = data(dBC) + direction * dBC.stride(0);
    T* const sums = data(dlow) + rank;
    at::parallel_for(0, batch * length, 64, [&](int64_t begin, int64_t end) {
      for (int64_t token = begin; token < end; ++token)
        sum_in_order(parts + token / length * groups * of_group + token % length * 2 * state,
                     groups, of_group, 2 * state, sums + token * row);
    });
    return dlow;
  }

  // The sum of a direction's parts (batch, ...) over the batch, in order.
  Tensor batch_sum(const Tensor& parts, int64_t direction, const Tensor& parameter) const {
    const Tensor sum = like(parameter);
    const int64_t count = sum.numel();
    sum_in_order(data(parts) + direction * parts.stride(0), batch, count, count, data(sum));
    return sum;
  }
};

}  // namespace

Tensor bimamba_forward_cpu(const Tensor& xz, at::TensorList parameters, std::string_view path,
                           MixerState* state) {
  if (xz.numel() == 0) return at::empty({xz.size(0), xz.size(1), xz.size(2) / 2}, xz.options());
  return AT_DISPATCH_FLOATING_TYPES(compute_type(xz), "bimamba_inner", [&] {
    return Mixer<scalar_t>(xz, parameters, path).forward(state).to(xz.scalar_type());
  });
}

std::vector<Tensor> bimamba_backward_cpu(const Tensor& xz, at::TensorList parameters,
                                         const MixerState& state, const Tensor& dout,
                                         std::string_view path) {
  std::vector<Tensor> operands{xz}, gradients;
  operands.insert(operands.end(), parameters.begin(), parameters.end());
  if (xz.numel() == 0) {
    for (const Tensor& x : operands) gradients.push_back(at::zeros_like(x));
    return gradients;
  }
  gradients = AT_DISPATCH_FLOATING_TYPES(compute_type(xz), "bimamba_inner_backward", [&] {
    return Mixer<scalar_t>(xz, parameters, path).backward(state, dout);
  });
  for (size_t i = 0; i < operands.size(); ++i)
    gradients[i] = gradients[i].to(operands[i].scalar_type());
  return gradients;
}

}  // namespace vmb
