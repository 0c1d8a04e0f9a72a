/* The C interface of data-parallel training on libtorch's c10d process groups, which
 * src/ops/distributed.rs binds. Conventions as in ops/abi.h. Without the feature `distributed`,
 * distributed_absent.cpp replaces it: every call returns a message that explains how to build it.
 */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Connects to the key-value store at host:port, which this process serves if `serve` is not 0. Keys
 * are prefixed with `prefix`. One connection serves one call at a time. */
char* vmb_store_open(const char* host, int port, int serve, const char* prefix, int64_t timeout_ms,
                     void** store);
void vmb_store_close(void* store);
char* vmb_store_set(void* store, const char* key, const uint8_t* value, int64_t length);
/* Waits for the key. The caller owns the value and frees it with vmb_free_message. */
char* vmb_store_get(void* store, const char* key, int64_t timeout_ms, char** value,
                    int64_t* length);
/* Whether the key is set, without waiting. */
char* vmb_store_has(void* store, const char* key, int* has);
/* Adds to a counter that starts at 0, and writes its new value. */
char* vmb_store_add(void* store, const char* key, int64_t amount, int64_t* sum);

/* Connects `size` processes with each other; all must call it. `nccl` selects NCCL (for CUDA
 * tensors only) instead of Gloo. A collective that waits longer than the timeout fails. */
char* vmb_group_join(void* store, int rank, int size, int nccl, int64_t timeout_ms, void** group);
void vmb_group_leave(void* group);
/* Copies rank `root`'s values to all ranks, in place. */
char* vmb_group_broadcast(void* group, void* tensor, int root);
/* Writes one new tensor per rank; `tensor` must have the same shape on all. */
char* vmb_group_all_gather(void* group, const void* tensor, void** out);
char* vmb_group_barrier(void* group);

/* Sums gradients over the ranks while backward runs. The parameters' gradients are in flat buckets
 * of about `bucket_bytes`, filled in the order of the list. The all-reduce of a bucket starts when
 * its gradients and those of the buckets before it are ready. */
char* vmb_reducer_new(void* group, void* const* parameters, int64_t count, int64_t bucket_bytes,
                      void** reducer);
void vmb_reducer_free(void* reducer);
/* Marks the next backward pass as the last of its step, whose gradients are summed. */
char* vmb_reducer_arm(void* reducer);
/* Starts the buckets that backward did not complete (with zeros, or what was accumulated before),
 * and waits for all. */
char* vmb_reducer_finish(void* reducer);

/* Whether the NCCL backend is compiled in. */
int vmb_has_nccl(void);
/* Exits the process at once: no destructor waits for a collective that never completes. */
void vmb_exit_now(int code);

#ifdef __cplusplus
}
#endif
