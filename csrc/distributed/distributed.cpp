// The store and the process groups of c10d.
#include "distributed.h"

#include <ATen/ATen.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef VMB_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include "ops/border.h"
#include "process_group.h"

namespace {

using at::Tensor;
using std::chrono::milliseconds;
using vmb::guarded, vmb::tensor;

using Store = c10::intrusive_ptr<c10d::Store>;

Store& store_of(void* store) { return *static_cast<Store*>(store); }
vmb::Group& group_of(void* group) { return *static_cast<vmb::Group*>(group); }

// Selects the interfaces that GLOO_SOCKET_IFNAME names, separated by commas, as in PyTorch; else
// the one of the host's name.
void choose_devices(c10d::ProcessGroupGloo::Options& options) {
  const char* names = std::getenv("GLOO_SOCKET_IFNAME");
  if (names == nullptr || *names == '\0') {
    options.devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
    return;
  }
  std::istringstream list(names);
  for (std::string name; std::getline(list, name, ',');) {
    if (!name.empty())
      options.devices.push_back(c10d::ProcessGroupGloo::createDeviceForInterface(name));
  }
  TORCH_CHECK_VALUE(!options.devices.empty(), "GLOO_SOCKET_IFNAME is \"", names,
                    "\", which names no network interface");
}

c10::intrusive_ptr<c10d::Backend> connect(const Store& store, int rank, int size, bool nccl,
                                          milliseconds timeout) {
  if (nccl) {
#ifdef VMB_NCCL
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = timeout;
    return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, std::move(options));
#else
    TORCH_CHECK(false, "NCCL is not compiled in: build with both features, cuda and distributed");
#endif
  }
  auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  choose_devices(*options);
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, std::move(options));
}

}  // namespace

char* vmb_store_open(const char* host, int port, int serve, const char* prefix, int64_t timeout_ms,
                     void** store) {
  return guarded([&] {
    c10d::TCPStoreOptions options;
    options.port = static_cast<std::uint16_t>(port);
    options.isServer = serve != 0;
    // The number of connections is not known in advance.
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_ms);
    Store tcp = c10::make_intrusive<c10d::TCPStore>(host, options);
    *store = new Store(c10::make_intrusive<c10d::PrefixStore>(prefix, std::move(tcp)));
  });
}

void vmb_store_close(void* store) { delete static_cast<Store*>(store); }

char* vmb_store_set(void* store, const char* key, const uint8_t* value, int64_t length) {
  return guarded([&] { store_of(store)->set(key, std::vector<uint8_t>(value, value + length)); });
}

char* vmb_store_get(void* store, const char* key, int64_t timeout_ms, char** value,
                    int64_t* length) {
  return guarded([&] {
    store_of(store)->wait({key}, milliseconds(timeout_ms));
    std::vector<uint8_t> bytes = store_of(store)->get(key);
    *value = static_cast<char*>(std::malloc(bytes.size() + 1));
    if (*value == nullptr) throw std::bad_alloc();
    std::memcpy(*value, bytes.data(), bytes.size());
    *length = static_cast<int64_t>(bytes.size());
  });
}

char* vmb_store_has(void* store, const char* key, int* has) {
  return guarded([&] { *has = store_of(store)->check({key}) ? 1 : 0; });
}

char* vmb_store_add(void* store, const char* key, int64_t amount, int64_t* sum) {
  return guarded([&] { *sum = store_of(store)->add(key, amount); });
}

char* vmb_group_join(void* store, int rank, int size, int nccl, int64_t timeout_ms, void** group) {
  return guarded([&] {
    TORCH_CHECK_VALUE(0 <= rank && rank < size, "rank ", rank, " is not one of ", size);
    *group = new vmb::Group{
        connect(store_of(store), rank, size, nccl != 0, milliseconds(timeout_ms)), size};
  });
}

void vmb_group_leave(void* group) { delete static_cast<vmb::Group*>(group); }

char* vmb_group_broadcast(void* group, void* tensor_, int root) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const Tensor& target = tensor(tensor_);
    std::vector<Tensor> list{target.detach().contiguous()};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    group_of(group).backend->broadcast(list, options)->wait();
    if (!list[0].is_alias_of(target)) target.detach().copy_(list[0]);
  });
}

char* vmb_group_all_gather(void* group, const void* tensor_, void** out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    std::vector<Tensor> mine{tensor(tensor_).detach().contiguous()};
    std::vector<std::vector<Tensor>> all(1);
    for (int rank = 0; rank < group_of(group).size; ++rank)
      all[0].push_back(at::empty_like(mine[0]));
    group_of(group).backend->allgather(all, mine)->wait();
    for (size_t rank = 0; rank < all[0].size(); ++rank) out[rank] = new Tensor(all[0][rank]);
  });
}

char* vmb_group_barrier(void* group) {
  return guarded([&] { group_of(group).backend->barrier()->wait(); });
}

int vmb_has_nccl(void) {
#ifdef VMB_NCCL
  return 1;
#else
  return 0;
#endif
}

void vmb_exit_now(int code) { std::_Exit(code); }
