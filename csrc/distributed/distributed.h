/* The C interface of data-parallel training over c10d's process groups, which libtorch holds;
 * src/ops/distributed.rs binds it. Conventions as in abi.h. Without the feature `distributed`,
 * distributed_absent.cpp stands in: every call answers how to build it. */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A connection to the key-value store at host:port, which this process serves where `serve` is not
 * 0. Keys lie below `prefix`. One connection answers one call at a time. */
char* vmb_store_open(const char* host, int port, int serve, const char* prefix, int64_t timeout_ms,
                     void** store);
void vmb_store_close(void* store);
char* vmb_store_set(void* store, const char* key, const uint8_t* value, int64_t length);
/* Waits for the key. The value is the caller's, to free with vmb_free_message. */
char* vmb_store_get(void* store, const char* key, int64_t timeout_ms, char** value,
                    int64_t* length);
/* Whether the key is there, without waiting. */
char* vmb_store_has(void* store, const char* key, int* has);
/* Adds to a counter that starts at 0, and gives its new value. */
char* vmb_store_add(void* store, const char* key, int64_t amount, int64_t* sum);

/* Connects `size` processes with each other; all must call it. `nccl` takes NCCL (for CUDA tensors
 * only) instead of Gloo. A collective that waits longer than the timeout fails. */
char* vmb_group_join(void* store, int rank, int size, int nccl, int64_t timeout_ms, void** group);
void vmb_group_leave(void* group);
/* Rank `root`'s values, in place. */
char* vmb_group_broadcast(void* group, void* tensor, int root);
/* One new tensor per rank; `tensor` must have the same shape on all. */
char* vmb_group_all_gather(void* group, const void* tensor, void** out);
char* vmb_group_barrier(void* group);

/* Sums gradients over the ranks while backward runs. The parameters' gradients live in flat buckets
 * of about `bucket_bytes`, filled in the order of the list; when all of a bucket's gradients are
 * there, and those of the buckets before, its all-reduce starts. */
char* vmb_reducer_new(void* group, void* const* parameters, int64_t count, int64_t bucket_bytes,
                      void** reducer);
void vmb_reducer_free(void* reducer);
/* The next backward pass is the last of its step: what it accumulates is summed. */
char* vmb_reducer_arm(void* reducer);
/* Starts what backward did not reach (as zeros, or as accumulated before), and waits for
 * everything. */
char* vmb_reducer_finish(void* reducer);

/* Whether the NCCL backend is compiled in. */
int vmb_has_nccl(void);
/* Ends the process at once: no destructor waits for a collective that never ends. */
void vmb_exit_now(int code);

#ifdef __cplusplus
}
#endif
