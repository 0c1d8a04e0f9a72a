/* The C interface that src/ops binds: tensors are pointers to at::Tensor (what tch holds), null for an absent one.
 * Every function returns null on success and otherwise a message that the caller frees with vmb_free_message; no C++
 * exception crosses this border. */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

char* vmb_selective_scan(const void* u, const void* delta, const void* A, const void* B, const void* C, const void* D, const void* z,
                         const void* delta_bias, int delta_softplus, int reverse, const char* path, void** out);
char* vmb_selective_scan_eager(const void* u, const void* delta, const void* A, const void* B, const void* C, const void* D, const void* z,
                               const void* delta_bias, int delta_softplus, int reverse, void** out);
char* vmb_causal_conv1d_silu(const void* x, const void* weight, const void* bias, int reverse, const char* path, void** out);

/* One AdamW step over many parameters at once; steps are scalar float tensors, advanced by one. */
char* vmb_adamw_step(void* const* params, void* const* grads, void* const* exp_avgs, void* const* exp_avg_sqs, void* const* steps,
                     int64_t count, double lr, double beta1, double beta2, double weight_decay, double eps);
/* The 2-norm over all gradients; where max_norm > 0 and the norm is larger, they are scaled in place to have it. */
char* vmb_clip_grad_norm(void* const* grads, int64_t count, double max_norm, double* norm);

/* Lets the allocator keep freed memory for the next step instead of giving it back to the system page by page: a training step
 * frees and asks for the same sizes again and again. For the whole process; call once, at its start. */
void vmb_keep_freed_memory(void);
/* The version of the libtorch that this was compiled against; a static string. */
const char* vmb_libtorch_version(void);
/* The instruction set that path "auto" takes on this machine; a static string. */
const char* vmb_best_path(void);
int vmb_path_available(const char* path);
void vmb_free_message(char* message);

#ifdef __cplusplus
}
#endif
