// Replaces distributed.cpp and reducer.cpp in a build without the feature `distributed`.
#include "distributed.h"

#include <cstdlib>

#include "ops/border.h"

namespace {

char* absent() {
  return vmb::copy_message(
      "this vmbeauty was built without the feature `distributed`: build it with `make distributed` "
      "(or cargo build --release --features distributed), or unset WORLD_SIZE to train with one "
      "process");
}

}  // namespace

char* vmb_store_open(const char*, int, int, const char*, int64_t, void**) { return absent(); }
void vmb_store_close(void*) {}
char* vmb_store_set(void*, const char*, const uint8_t*, int64_t) { return absent(); }
char* vmb_store_get(void*, const char*, int64_t, char**, int64_t*) { return absent(); }
char* vmb_store_has(void*, const char*, int*) { return absent(); }
char* vmb_store_add(void*, const char*, int64_t, int64_t*) { return absent(); }
char* vmb_group_join(void*, int, int, int, int64_t, void**) { return absent(); }
void vmb_group_leave(void*) {}
char* vmb_group_broadcast(void*, void*, int) { return absent(); }
char* vmb_group_all_gather(void*, const void*, void**) { return absent(); }
char* vmb_group_barrier(void*) { return absent(); }
char* vmb_reducer_new(void*, void* const*, int64_t, int64_t, void**) { return absent(); }
void vmb_reducer_free(void*) {}
char* vmb_reducer_arm(void*) { return absent(); }
char* vmb_reducer_finish(void*) { return absent(); }
int vmb_has_nccl(void) { return 0; }
void vmb_exit_now(int code) { std::_Exit(code); }
