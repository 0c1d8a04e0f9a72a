/* The C interface that src/ops binds: tensors are pointers to at::Tensor (what tch holds), null for
 * an absent one. Every function returns null on success and otherwise a message that the caller
 * frees with vmb_free_message; no C++ exception crosses this border. */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The operands of one scan: shapes as in selective_scan.cpp; D, z and delta_bias may be null. */
typedef struct {
  const void *u, *delta, *A, *B, *C, *D, *z, *delta_bias;
  int delta_softplus, reverse;
} vmb_scan_inputs;

char* vmb_selective_scan(const vmb_scan_inputs* x, const char* path, void** out);
char* vmb_selective_scan_eager(const vmb_scan_inputs* x, void** out);
char* vmb_causal_conv1d_silu(const void* x, const void* weight, const void* bias, int reverse,
                             const char* path, void** out);
/* The parameters of each direction: 7 tensors in the order of bimamba_inner.cpp. */
char* vmb_bimamba_inner(const void* xz, void* const* forward, void* const* backward,
                        const char* path, void** out);

/* Computes a linear layer, x weightᵀ + bias, by oneDNN; writes null where libtorch's own is as good
 * (linear.cpp). */
char* vmb_linear(const void* x, const void* weight, const void* bias, void** out);
/* Computes x + factors update, and its layer norm, or its RMS norm without a bias, on the CPU in
 * float or double; writes null elsewhere. All but x may be null: `out` is null without a weight.
 * factors: one for each x[i]. */
char* vmb_norm(const void* x, const void* update, const void* factors, const void* weight,
               const void* bias, double eps, void** sum, void** out);

/* Computes multi-head self-attention of a qkv projection's output (b, l, 3 heads d) on the CPU;
 * writes null elsewhere. */
char* vmb_attention(const void* qkv, int64_t heads, const char* path, void** out);

/* Computes a transformer's MLP, weight2 gelu(weight1 x + bias1) + bias2, on the CPU in float or
 * double; writes null elsewhere. The biases may be null. */
char* vmb_mlp(const void* x, const void* weight1, const void* bias1, const void* weight2,
              const void* bias2, int quick_gelu, void** out);

/* Takes one AdamW step over many parameters at once; steps are scalar float tensors, incremented by
 * one. */
char* vmb_adamw_step(void* const* params, void* const* grads, void* const* exp_avgs,
                     void* const* exp_avg_sqs, void* const* steps, int64_t count, double lr,
                     double beta1, double beta2, double weight_decay, double eps);
/* Takes one SGD step, with the decay and momentum of torch.optim.SGD; momentum_buffers may be null
 * where momentum is 0. */
char* vmb_sgd_step(void* const* params, void* const* grads, void* const* momentum_buffers,
                   int64_t count, double lr, double momentum, int nesterov, double weight_decay);
/* Takes one Lion step. */
char* vmb_lion_step(void* const* params, void* const* grads, void* const* exp_avgs, int64_t count,
                    double lr, double beta1, double beta2, double weight_decay);
/* Removes the gradients of parameters, so that the next backward pass keeps those that it computes
 * instead of adding them to zeros. */
void vmb_remove_gradients(void* const* params, int64_t count);
/* Adds a gradient, unless it is undefined, to that of a parameter. */
char* vmb_add_gradient(const void* parameter, const void* gradient);
/* Moves averages in place towards the values, by `weight` of the difference. */
char* vmb_ema_update(void* const* averages, void* const* values, int64_t count, double weight);
/* Computes the 2-norm of all gradients, and scales them in place to max_norm where that is above 0
 * and smaller. */
char* vmb_clip_grad_norm(void* const* grads, int64_t count, double max_norm, double* norm);

/* For benchmarks (benchmark.cpp). Computes the gradients of `leaves` for the gradient `dout` of
 * `out`, as new tensors; null where a leaf has none. */
char* vmb_gradients(const void* out, const void* dout, void* const* leaves, int64_t count,
                    void** gradients);
/* Counts the memory that libtorch allocates for this thread, until the watch ends on the same
 * thread. */
char* vmb_memory_watch_begin(void** watch);
/* The peak of allocated bytes since the watch began or was last read, minus those at that time. */
int64_t vmb_memory_watch_peak(void* watch);
void vmb_memory_watch_end(void* watch);
/* Runs only the arithmetic of a scan of these sizes in float, on all threads. */
char* vmb_scan_limit(int64_t batch, int64_t dim, int64_t length, int64_t state, int backward,
                     const char* path);
/* Counts the CUDA kernels that this thread's operators on CPU tensors would launch on a GPU
 * (launches.cpp), until vmb_count_launches_end on the same thread. */
char* vmb_count_launches_begin(void** counter);
/* Returns lines of a number, a space and an operator; the caller frees them with vmb_free_message.
 */
char* vmb_count_launches_end(void* counter);
/* Enables torch.autocast for a device on this thread; vmb_autocast_end restores the state before.
 */
char* vmb_autocast_begin(int device_type, int scalar_type, void** previous);
void vmb_autocast_end(void* previous);

/* A function of one tensor: writes a new at::Tensor to out, or returns a message from
 * vmb_copy_message. */
typedef char* (*vmb_segment_fn)(void* data, const void* x, void** out);
typedef void (*vmb_drop_fn)(void* data);
/* Calls run(data, x), of which autograd saves x only: backward runs it again. `parameters` are the
 * tensors inside it that may require gradients. The call owns `data` from the start, whatever it
 * returns; destroy(data) frees it. Backward may run on another thread. */
char* vmb_recomputed(vmb_segment_fn run, void* data, vmb_drop_fn destroy, const void* x,
                     void* const* parameters, int64_t count, void** out);

/* Makes every operator of the calling thread run on this thread alone, from now on. New threads get
 * the same number until at::set_num_threads is called again. */
char* vmb_use_one_thread(void);
/* Makes the allocator keep freed memory for the next step instead of returning it to the system
 * page by page: every training step allocates and frees the same sizes. Applies to the entire
 * process; call it once, at the start. */
void vmb_keep_freed_memory(void);
/* The version of the libtorch that this was compiled against; a static string. */
const char* vmb_libtorch_version(void);
/* Whether libtorch's CUDA libraries are loaded: true in every build against a libtorch with CUDA,
 * with or without a GPU. */
int vmb_cuda_loaded(void);
/* A GPU; compute_capability is 90 for 9.0. */
typedef struct {
  char name[256];
  unsigned char uuid[16];
  int compute_capability;
  int64_t memory_bytes;
} vmb_gpu;
/* Counts the GPUs that CUDA finds; the message says why there is none. 0 in a build for the CPU. */
char* vmb_gpu_count(int* count);
char* vmb_gpu_properties(int index, vmb_gpu* gpu);
/* CUDA's versions, as in 13000 for 13.0; 0 without a driver, and both in a build for the CPU. */
void vmb_cuda_versions(int* driver, int* runtime);
/* Sets for the process whether GPUs multiply float32 in TF32, and whether cuDNN and attention are
 * bit for bit reproducible. */
void vmb_set_gpu_math(int tf32, int deterministic);
int vmb_gpu_math_uses_tf32(void);
/* The instruction set that path "auto" selects on this machine; a static string. */
const char* vmb_best_path(void);
int vmb_path_available(const char* path);
char* vmb_copy_message(const char* text);
void vmb_free_message(char* message);

#ifdef __cplusplus
}
#endif
