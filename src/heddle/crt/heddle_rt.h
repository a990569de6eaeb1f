/* SPDX-License-Identifier: Apache-2.0 */
/* The plain C interface that every model library exports.
 *
 * Every function checks what it is handed and never ends the process: on a mistake it returns a
 * nonzero value and heddle_last_error() says what was wrong. All functions may be called from
 * several threads at once.
 */
#ifndef HEDDLE_RT_H_
#define HEDDLE_RT_H_

#include <stdint.h>

#include "heddle_dlpack.h"

#ifdef __cplusplus
extern "C" {
#endif

struct hd_model;

/* Runs the model. Tensors are in CPU memory, contiguous, aligned to their element size, of the
 * dtype and shape that the model declares; outputs are allocated by the caller and overlap neither
 * the inputs nor one another. Inputs that the model was compiled to take as donated are written to
 * and overlap no other; an output that lies in one is given the same pointer. Returns 0, or nonzero after setting the error. */
int32_t heddle_run(const DLTensor *const *inputs, int32_t num_inputs, DLTensor *const *outputs,
                   int32_t num_outputs);

/* Like heddle_run; adds to kernel_ns[k] the nanoseconds spent in kernel k and to kernel_calls[k]
 * how often it ran. Both arrays have as many elements as the model has kernels. */
int32_t heddle_run_profiled(const DLTensor *const *inputs, int32_t num_inputs,
                            DLTensor *const *outputs, int32_t num_outputs, int64_t *kernel_ns,
                            int64_t *kernel_calls);

/* Checks the inputs and writes the dimensions of all outputs, one output after another. The data
 * pointers of the inputs are not read. `capacity` is the number of elements of dims. */
int32_t heddle_infer_shapes(const DLTensor *const *inputs, int32_t num_inputs, int64_t *dims,
                            int32_t capacity);

/* The message of the last failed call of this thread; "" if there was none. Valid until the next
 * failing call of the thread. */
const char *heddle_last_error(void);

/* Describes inputs, outputs and kernels (see heddle_abi.h). */
const struct hd_model *heddle_get_model(void);

/* JSON: what the compiler recorded about the model. */
const char *heddle_metadata(void);

/* Hands over the constants of a library that has none embedded. The memory must be 64-byte aligned
 * and stay valid and unchanged for as long as the library is used. */
int32_t heddle_set_constants(const void *data, int64_t size);

/* Threads that kernels may use, the calling thread included, from now on, for all model libraries
 * of the process. The default is HEDDLE_NUM_THREADS, else the CPUs the process may run on. */
int32_t heddle_set_num_threads(int32_t count);
int32_t heddle_get_num_threads(void);

/* Gives the idle working memory of this library back to the system. */
void heddle_trim(void);

#ifdef __cplusplus
}
#endif
#endif /* HEDDLE_RT_H_ */
