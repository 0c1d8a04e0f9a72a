// Activation checkpointing (arXiv 1604.06174): a piece of the network whose forward pass keeps its
// input alone, and is run again in backward for what its gradients need. The second run draws the
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

// The state of a device's generator, put back when it ends.
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

// What of its surroundings a piece depends on, beside its input and parameters.
class Surroundings {
 public:
  explicit Surroundings(at::Device device)
      : device_(device),
        generator_(device),
        drawn_(generator_.state()),
        autocast_(at::autocast::is_autocast_enabled(device.type())),
        type_(at::autocast::get_autocast_dtype(device.type())) {}

  // Runs f as it ran when this was made, and leaves no trace.
  template <class F>
  auto restored_for(const F& f) {
    struct Restore {
      ~Restore() {
        // As where autocast ends: no cast of a parameter outlives it.
        if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
        now.enter();
      }
      Surroundings now;
    };
    const Restore restore{Surroundings(device_)};
    at::autocast::increment_nesting();
    enter();
    return f();
  }

 private:
  void enter() const {
    generator_.set(drawn_);
    at::autocast::set_autocast_enabled(device_.type(), autocast_);
    at::autocast::set_autocast_dtype(device_.type(), type_);
  }

  at::Device device_;
  Generator generator_;
  Tensor drawn_;
  bool autocast_;
  at::ScalarType type_;
};

// The piece: the caller's function and what it has closed over.
class Piece : public torch::CustomClassHolder {
 public:
  Piece(vmb_function run, void* data, vmb_destructor destroy)
      : run_(run), data_(data), destroy_(destroy) {}
  Piece(const Piece&) = delete;
  ~Piece() override { destroy_(data_); }

  Tensor operator()(const Tensor& x) const {
    void* out = nullptr;
    if (const std::unique_ptr<char, decltype(&std::free)> message{run_(data_, &x, &out),
                                                                  &std::free})
      TORCH_CHECK(false, message.get());
    const std::unique_ptr<Tensor> owned(static_cast<Tensor*>(out));
    return *owned;
  }

 private:
  vmb_function run_;
  void* data_;
  vmb_destructor destroy_;
};

struct Memory : torch::CustomClassHolder {
  Memory(c10::intrusive_ptr<Piece> piece, at::Device device)
      : piece(std::move(piece)), surroundings(device) {}
  c10::intrusive_ptr<Piece> piece;
  Surroundings surroundings;
};

struct Recomputed : torch::autograd::Function<Recomputed> {
  // The parameters are operands (a TensorList: of a vector autograd takes no notice), so that their
  // gradients leave through this node like those of any other.
  static Tensor forward(AutogradContext* ctx, const Tensor& x, at::TensorList parameters,
                        const c10::intrusive_ptr<Piece>& piece) {
    ctx->saved_data["memory"] =
        c10::IValue::make_capsule(c10::make_intrusive<Memory>(piece, x.device()));
    variable_list saved{x};
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    ctx->save_for_backward(std::move(saved));
    return (*piece)(x);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& douts) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "activation checkpointing: a gradient of gradients is not implemented");
    const variable_list saved = ctx->get_saved_variables();
    auto& memory = static_cast<Memory&>(*ctx->saved_data["memory"].toCapsule());
    const at::AutoGradMode with_gradients(true);
    const Tensor x = saved[0].detach().set_requires_grad(ctx->needs_input_grad(0));
    const Tensor out = memory.surroundings.restored_for([&] { return (*memory.piece)(x); });
    // One place for each operand, and none for the piece.
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

char* vmb_recomputed(vmb_function run, void* data, vmb_destructor destroy, const void* x,
                     void* const* parameters, int64_t count, void** out) {
  return vmb::guarded([&] {
    auto piece = c10::make_intrusive<vmb::Piece>(run, data, destroy);
    const std::vector<at::Tensor> list = vmb::tensors(parameters, count);
    *out = new at::Tensor(vmb::Recomputed::apply(vmb::tensor(x), at::TensorList(list), piece));
  });
}

char* vmb_copy_message(const char* text) { return vmb::copy_message(text); }
