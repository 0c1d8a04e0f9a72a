// The launches of CUDA kernels, counted on a CPU from the operators that libtorch reports to its
// profilers.
//
// An operator of libtorch that has a kernel of its own, or calls no other, counts as one launch
// unless it returns a view, uninitialized memory or no tensor; the others count as what they call.
// What has a kernel on a GPU but is composed on a CPU counts as that kernel. Our operators count as
// what csrc/cuda/cuda_ops.cpp launches. Not seen: kernels of cuBLAS and cuDNN beyond the first of a
// call, lists that foreach and fused operators split (after 30 to 110 tensors), what autocast casts
// on one device only, and other threads. Counted though they are no kernels: copies to the host.
#include "launches.h"

#include <ATen/SequenceNumber.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <vector>

#include "abi.h"
#include "border.h"

namespace {

using vmb::LaunchCounter, vmb::launch_counter;

// An operator that is composed of others on a CPU only, and its launches on a GPU, forward and
// backward.
struct Fused {
  std::string_view prefix;
  int forward, backward;
};

constexpr Fused kFused[] = {
    {"aten::rms_norm", 1, 2},
    {"aten::dropout", 1, 1},
    {"aten::_foreach_", 1, 0},
    {"aten::_fused_", 1, 0},
};

// Backward nodes with a number in [first, end) belong to one fused operator.
struct FusedBackward {
  uint64_t first, end;
  std::string name;
  int launches;
  bool counted = false;
};

// Whether an operator launches nothing itself, something if it calls no other operator, or
// something in any case.
enum class Kind { none, leaf, kernel };

struct Recorder : LaunchCounter {
  struct Frame {
    Kind kind = Kind::none;
    const Fused* fused = nullptr;
    uint64_t first_node = at::sequence_number::peek();
    bool paused = false, calls_others = false;
  };
  std::vector<Frame> frames;
  std::vector<FusedBackward> backward;
  at::CallbackHandle callback = 0;
};

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

Recorder* recorder() { return static_cast<Recorder*>(launch_counter); }

Kind kind_of(const at::RecordFunction& function) {
  const std::string_view name = function.name();
  if (!starts_with(name, "aten::")) return Kind::none;
  for (const char* allocation : {"aten::empty", "aten::new_empty", "aten::_unsafe_view"})
    if (starts_with(name, allocation)) return Kind::none;
  const auto op = c10::Dispatcher::singleton().findSchema(*function.operator_name());
  if (!op) return Kind::none;
  const auto& results = op->schema().returns();
  const bool view = std::any_of(results.begin(), results.end(), [](const auto& result) {
    return result.alias_info() && !result.alias_info()->isWrite();
  });
  const bool kernel = op->hasKernelForDispatchKey(c10::DispatchKey::CPU);
  return view || results.empty() ? Kind::none : kernel ? Kind::kernel : Kind::leaf;
}

std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
  if (!launch_counter) return nullptr;  // libtorch passes callbacks on to threads of its own
  Recorder& counter = *recorder();
  if (!counter.frames.empty()) counter.frames.back().calls_others = true;
  Recorder::Frame frame;
  const std::string_view name = function.name();
  if (function.scope() == at::RecordScope::BACKWARD_FUNCTION) {
    const auto node = static_cast<uint64_t>(function.seqNr());
    for (FusedBackward& fused : counter.backward) {
      if (node < fused.first || node >= fused.end) continue;
      if (!fused.counted) counter.add(fused.name + " backward", fused.launches);
      fused.counted = frame.paused = true;
    }
  } else if (counter.paused == 0) {
    for (const Fused& fused : kFused)
      if (starts_with(name, fused.prefix)) frame.fused = &fused;
    frame.kind = frame.fused ? Kind::none : kind_of(function);
    frame.paused = frame.fused || frame.kind == Kind::kernel;
  }
  counter.paused += frame.paused;
  counter.frames.push_back(frame);
  return nullptr;
}

void on_end(const at::RecordFunction& function, at::ObserverContext*) {
  if (!launch_counter) return;
  Recorder& counter = *recorder();
  const Recorder::Frame frame = counter.frames.back();
  counter.frames.pop_back();
  counter.paused -= frame.paused;
  if (frame.kind == Kind::kernel || (frame.kind == Kind::leaf && !frame.calls_others))
    counter.add(function.name());
  if (!frame.fused) return;
  counter.add(function.name(), frame.fused->forward);
  counter.backward.push_back({frame.first_node, at::sequence_number::peek(), function.name(),
                              frame.fused->backward});
}

}  // namespace

char* vmb_count_launches_begin(void** counter) {
  return vmb::guarded([&] {
    TORCH_CHECK(!launch_counter, "launches are being counted on this thread already");
    auto created = std::make_unique<Recorder>();
    created->callback = at::addThreadLocalCallback(
        at::RecordFunctionCallback(on_start, on_end)
            .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
    *counter = created.get();
    launch_counter = created.release();
  });
}

char* vmb_count_launches_end(void* counter) {
  const std::unique_ptr<Recorder> owned(static_cast<Recorder*>(counter));
  at::removeCallback(owned->callback);
  launch_counter = nullptr;
  std::string lines;
  for (const auto& [name, count] : owned->launches)
    lines += std::to_string(count) + " " + name + "\n";
  return vmb::copy_message(lines.c_str());
}
