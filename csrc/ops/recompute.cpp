// Activation checkpointing (arXiv 1604.06174): the forward pass of a segment of the network saves
// its input only, and backward runs it again to compute its gradients. The second run samples the
// same random numbers and casts as the first.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <memory>
#include <mutex>
#include <string>

#include "abi.h"
#include "border.h"

namespace vmb {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The random generator of a device.
class Generator {
 public:
  explicit Generator(at::Device device)
      : generator_(at::globalContext().defaultGenerator(device)) {}
  Tensor state() {
    const std::lock_guard<std::mutex> lock(generator_.mutex());
    return generator_.get_state();
  }
  void set(const Tensor& state) const {
    at::Generator generator = generator_;  // shares the state, which is the device's
    const std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(state);
  }

 private:
  at::Generator generator_;
};

// The state outside its input and parameters that a segment depends on: random generator, autocast.
class RuntimeState {
 public:
  explicit RuntimeState(at::Device device)
      : device_(device),
        generator_(device),
        rng_state_(generator_.state()),
        autocast_(at::autocast::is_autocast_enabled(device.type())),
        type_(at::autocast::get_autocast_dtype(device.type())) {}

  // Runs f in this state, and restores the present one.
  template <class F>
  auto restored_for(const F& f) {
    struct Restore {
      ~Restore() {
        // As in vmb_autocast_end: no cast of a parameter outlives autocast.
        if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
        now.enter();
      }
      RuntimeState now;
    };
    const Restore restore{RuntimeState(device_)};
    at::autocast::increment_nesting();
    enter();
    return f();
  }

 private:
  void enter() const {
    generator_.set(rng_state_);
    at::autocast::set_autocast_enabled(device_.type(), autocast_);
    at::autocast::set_autocast_dtype(device_.type(), type_);
  }

  at::Device device_;
  Generator generator_;
  Tensor rng_state_;
  bool autocast_;
  at::ScalarType type_;
};

// The segment: the caller's function and its data.
class Segment : public torch::CustomClassHolder {
 public:
  Segment(vmb_segment_fn run, void* data, vmb_drop_fn destroy)
      : run_(run), data_(data), destroy_(destroy) {}
  Segment(const Segment&) = delete;
  ~Segment() override { destroy_(data_); }

  Tensor operator()(const Tensor& x) const {
    void* out = nullptr;
    if (const std::unique_ptr<char, decltype(&std::free)> message{run_(data_, &x, &out),
                                                                  &std::free})
      TORCH_CHECK(false, message.get());
    const std::unique_ptr<Tensor> owned(static_cast<Tensor*>(out));
    return *owned;
  }

 private:
  vmb_segment_fn run_;
  void* data_;
  vmb_drop_fn destroy_;
};

struct Saved : torch::CustomClassHolder {
  Saved(c10::intrusive_ptr<Segment> segment, at::Device device)
      : segment(std::move(segment)), runtime(device) {}
  c10::intrusive_ptr<Segment> segment;
  RuntimeState runtime;
};

struct Recomputed : torch::autograd::Function<Recomputed> {
  // The parameters are arguments (a TensorList: autograd ignores a vector), so that their gradients
  // leave through this node.
  static Tensor forward(AutogradContext* ctx, const Tensor& x, at::TensorList parameters,
                        const c10::intrusive_ptr<Segment>& segment) {
    ctx->saved_data["saved_segment"] =
        c10::IValue::make_capsule(c10::make_intrusive<Saved>(segment, x.device()));
    variable_list saved{x};
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    ctx->save_for_backward(std::move(saved));
    return (*segment)(x);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& douts) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "activation checkpointing: a gradient of gradients is not implemented");
    const variable_list saved = ctx->get_saved_variables();
    auto& state = static_cast<Saved&>(*ctx->saved_data["saved_segment"].toCapsule());
    const at::AutoGradMode with_gradients(true);
    const Tensor x = saved[0].detach().set_requires_grad(ctx->needs_input_grad(0));
    const Tensor out = state.runtime.restored_for([&] { return (*state.segment)(x); });
    // One for each argument; none for the segment.
    variable_list gradients(saved.size() + 1), wanted;
    std::vector<size_t> places;
    for (size_t i = 0; i < saved.size(); ++i) {
      if (!ctx->needs_input_grad(i)) continue;
      wanted.push_back(i == 0 ? x : saved[i]);
      places.push_back(i);
    }
    const auto found = torch::autograd::grad({out}, wanted, {douts[0]}, std::nullopt, false,
                                             /*allow_unused=*/true);
    for (size_t i = 0; i < found.size(); ++i) gradients[places[i]] = found[i];
    return gradients;
  }
};

}  // namespace
}  // namespace vmb

char* vmb_recomputed(vmb_segment_fn run, void* data, vmb_drop_fn destroy, const void* x,
                     void* const* parameters, int64_t count, void** out) {
  return vmb::guarded([&] {
    auto segment = c10::make_intrusive<vmb::Segment>(run, data, destroy);
    const std::vector<at::Tensor> list = vmb::tensors(parameters, count);
    *out = new at::Tensor(vmb::Recomputed::apply(vmb::tensor(x), at::TensorList(list), segment));
  });
}

char* vmb_copy_message(const char* text) { return vmb::copy_message(text); }
