// Sums gradients over the ranks in flat buckets while backward runs, like PyTorch's
// DistributedDataParallel (arXiv 2006.15704).
#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <mutex>
#include <vector>

#include "ops/border.h"
#include "distributed.h"
#include "process_group.h"

namespace {

using at::Tensor;
using vmb::guarded;

struct Bucket {
  Tensor flat;
  std::vector<Tensor> parameters;
  // Views of `flat`, one for each parameter, with its shape and strides.
  std::vector<Tensor> gradients;
  size_t missing = 0;
  c10::intrusive_ptr<c10d::Work> work;
};

class Reducer {
 public:
  Reducer(const vmb::Group& group, const std::vector<Tensor>& parameters, int64_t bucket_bytes)
      : backend_(group.backend) {
    at::NoGradGuard no_grad;
    std::vector<Tensor> next;
    int64_t bytes = 0;
    for (const Tensor& parameter : parameters) {
      TORCH_CHECK_VALUE(parameter.is_leaf() && parameter.requires_grad(),
                        "reducer: every parameter must be a leaf that requires a gradient");
      TORCH_CHECK_VALUE(parameter.is_non_overlapping_and_dense(),
                        "reducer: a parameter has gaps between its elements");
      if (!next.empty() &&
          (bytes + static_cast<int64_t>(parameter.nbytes()) > bucket_bytes ||
           parameter.dtype() != next[0].dtype() || parameter.device() != next[0].device())) {
        add_bucket(next);
        next.clear();
        bytes = 0;
      }
      next.push_back(parameter);
      bytes += static_cast<int64_t>(parameter.nbytes());
    }
    if (!next.empty()) add_bucket(next);
    for (size_t b = 0; b < buckets_.size(); ++b) {
      for (size_t i = 0; i < buckets_[b].parameters.size(); ++i) {
        torch::autograd::impl::set_post_acc_grad_hooks(buckets_[b].parameters[i],
                                                       std::make_unique<Hook>(*this, b, i));
      }
    }
  }

  ~Reducer() {
    for (const Bucket& bucket : buckets_) {
      for (const Tensor& parameter : bucket.parameters)
        torch::autograd::impl::set_post_acc_grad_hooks(parameter, nullptr);
    }
  }

  Reducer(const Reducer&) = delete;
  Reducer& operator=(const Reducer&) = delete;

  void arm() {
    std::lock_guard<std::mutex> lock(mutex_);
    for (Bucket& bucket : buckets_) {
      bucket.missing = bucket.parameters.size();
      bucket.work.reset();
    }
    armed_ = true;
    started_ = 0;
  }

  void finish() {
    at::NoGradGuard no_grad;
    std::lock_guard<std::mutex> lock(mutex_);
    TORCH_CHECK(armed_, "reducer: finish without arm");
    armed_ = false;
    // The hooks have moved what the last backward reached; the rest are zeros, the sums of earlier
    // backward passes of the step, or those of slices, which are added without hooks.
    for (Bucket& bucket : buckets_) {
      for (size_t i = 0; i < bucket.parameters.size(); ++i) gather(bucket, i);
    }
    while (started_ < buckets_.size()) start_next();
    for (Bucket& bucket : buckets_) bucket.work->wait();
  }

 private:
  struct Hook : torch::autograd::PostAccumulateGradHook {
    Hook(Reducer& reducer, size_t bucket, size_t index)
        : reducer(reducer), bucket(bucket), index(index) {}
    void operator()(const torch::autograd::Variable&) override {
      reducer.accumulated(bucket, index);
    }
    Reducer& reducer;
    size_t bucket, index;
  };

  void add_bucket(const std::vector<Tensor>& parameters) {
    Bucket bucket;
    int64_t elements = 0;
    for (const Tensor& parameter : parameters) elements += parameter.numel();
    bucket.flat = at::zeros({elements}, parameters[0].options().requires_grad(false));
    bucket.parameters = parameters;
    int64_t offset = 0;
    // Below autograd they are not recorded as views: gradients are detached in place when they are
    // set to zero, which views do not allow.
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    for (const Tensor& parameter : parameters) {
      bucket.gradients.push_back(
          bucket.flat.as_strided(parameter.sizes(), parameter.strides(), offset));
      offset += parameter.numel();
    }
    buckets_.push_back(std::move(bucket));
  }

  // Moves the gradient of a parameter into the bucket, where it stays until the next step removes
  // it from the parameter.
  static void gather(Bucket& bucket, size_t index) {
    Tensor& gradient = bucket.parameters[index].mutable_grad();
    Tensor& view = bucket.gradients[index];
    if (gradient.defined() && gradient.data_ptr() == view.data_ptr()) return;
    if (gradient.defined()) {
      view.copy_(gradient.detach());
    } else {
      view.zero_();
    }
    gradient = view;
  }

  void accumulated(size_t b, size_t index) {
    at::NoGradGuard no_grad;
    std::lock_guard<std::mutex> lock(mutex_);
    if (!armed_) return;
    Bucket& bucket = buckets_[b];
    // The all-reduce of this bucket is already running: the change would be too late.
    TORCH_CHECK(b >= started_,
                "reducer: backward has accumulated the gradient of one parameter twice in a step");
    gather(bucket, index);
    if (bucket.missing > 0) --bucket.missing;
    // All ranks start buckets in the same order, or they would sum different buckets.
    while (started_ < buckets_.size() && buckets_[started_].missing == 0) start_next();
  }

  void start_next() {
    Bucket& bucket = buckets_[started_];
    std::vector<Tensor> list{bucket.flat};
    bucket.work = backend_->allreduce(list);
    ++started_;
  }

  c10::intrusive_ptr<c10d::Backend> backend_;
  std::vector<Bucket> buckets_;
  std::mutex mutex_;
  bool armed_ = false;
  size_t started_ = 0;
};

}  // namespace

char* vmb_reducer_new(void* group, void* const* parameters, int64_t count, int64_t bucket_bytes,
                      void** reducer) {
  return guarded([&] {
    *reducer = new Reducer(*static_cast<vmb::Group*>(group), vmb::tensors(parameters, count),
                           bucket_bytes);
  });
}

void vmb_reducer_free(void* reducer) { delete static_cast<Reducer*>(reducer); }

char* vmb_reducer_arm(void* reducer) {
  return guarded([&] { static_cast<Reducer*>(reducer)->arm(); });
}

char* vmb_reducer_finish(void* reducer) {
  return guarded([&] { static_cast<Reducer*>(reducer)->finish(); });
}
