/* SPDX-License-Identifier: Apache-2.0 */
/* The plain C interface (heddle_rt.h). */
#include <string.h>

#include "check.h"
#include "internal.h"

/* Declares the exported functions with the visibility they need. */
#pragma GCC visibility push(default)
#include "heddle_rt.h"
#pragma GCC visibility pop

#define MODEL (&heddle_model)
#define CONSTANTS_ALIGNMENT 64

#pragma weak heddle_constants

static const uint8_t *given_constants; /* from heddle_set_constants; published by the caller */

/* ---- constants ------------------------------------------------------------------------------- */

int32_t heddle_set_constants(const void *data, int64_t size) {
  if (size != MODEL->constants_size) {
    hd_set_error("%s: got %lld bytes of constants, expected %lld", MODEL->name, (long long)size,
                 (long long)MODEL->constants_size);
    return -1;
  }
  if (size > 0 && !data) {
    hd_set_error("%s: constants are NULL, expected %lld bytes", MODEL->name, (long long)size);
    return -1;
  }
  if ((uintptr_t)data % CONSTANTS_ALIGNMENT != 0) {
    hd_set_error("%s: constants are not aligned to %d bytes", MODEL->name, CONSTANTS_ALIGNMENT);
    return -1;
  }
  __atomic_store_n(&given_constants, data, __ATOMIC_RELEASE);
  return 0;
}

static int32_t find_constants(const uint8_t **constants) {
  *constants = __atomic_load_n(&given_constants, __ATOMIC_ACQUIRE);
  if (!*constants) *constants = heddle_constants;
  if (*constants || MODEL->constants_size == 0) return 0;
  hd_set_error("%s: the library has no constants; call heddle_set_constants first", MODEL->name);
  return -1;
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* Runs a call whose arguments have been checked. */
static int32_t run_checked(hd_call *call, struct hd_profile *profile) {
  hd_context context = {.inputs = call->inputs,
                        .outputs = call->outputs,
                        .symbols = call->symbols,
                        .profile = profile};
  if (find_constants(&context.constants) != 0) return -1;
  const int64_t size = MODEL->arena_size ? MODEL->arena_size(call->symbols) : 0;
  if (size < 0) {
    const int64_t symbol = -1 - size;
    hd_set_error("%s: input `%s`: a dimension is %lld, which does not fit those of other inputs",
                 MODEL->name, MODEL->inputs[call->bound_by[symbol]].name,
                 (long long)call->symbols[symbol]);
    return -1;
  }
  if (size > 0) {
    context.arena = hd_arena_acquire(size, MODEL->arena_alignment);
    if (!context.arena) return -1;
  }
  hd_clear_error();
  hd_pool_hot_begin();
  int32_t status = MODEL->main(&context);
  hd_pool_hot_end();
  hd_arena_release(context.arena);
  if (status != 0 && !*hd_get_error()) {
    hd_set_error("%s: the model failed with status %d", MODEL->name, status);
  }
  return status;
}

/* Tells the caller how much of its outputs has been written. */
static void set_final_dims(hd_call *call, DLTensor *const *outputs) {
  if (!MODEL->final_dims) return;
  MODEL->final_dims(call->symbols, call->output_dims);
  const int64_t *dims = call->output_dims;
  for (int32_t i = 0; i < MODEL->num_outputs; ++i) {
    for (int32_t axis = 0; axis < outputs[i]->ndim; ++axis) outputs[i]->shape[axis] = *dims++;
  }
}

static int32_t run(const DLTensor *const *inputs, int32_t num_inputs, DLTensor *const *outputs,
                   int32_t num_outputs, struct hd_profile *profile) {
  hd_call call;
  if (hd_call_begin(&call) != 0) return -1;
  int32_t status = hd_check_inputs(&call, inputs, num_inputs);
  if (status == 0) status = hd_check_input_memory(&call, inputs);
  if (status == 0) status = hd_check_outputs(&call, outputs, num_outputs);
  if (status == 0) status = run_checked(&call, profile);
  if (status == 0) set_final_dims(&call, outputs);
  hd_call_end(&call);
  return status;
}

int32_t hd_run(const DLTensor *const *inputs, int32_t num_inputs, DLTensor *const *outputs,
               int32_t num_outputs) {
  return run(inputs, num_inputs, outputs, num_outputs, NULL);
}

int32_t heddle_run(const DLTensor *const *inputs, int32_t num_inputs, DLTensor *const *outputs,
                   int32_t num_outputs) {
  return run(inputs, num_inputs, outputs, num_outputs, NULL);
}

int32_t heddle_run_profiled(const DLTensor *const *inputs, int32_t num_inputs,
                            DLTensor *const *outputs, int32_t num_outputs, int64_t *kernel_ns,
                            int64_t *kernel_calls) {
  if (MODEL->num_kernels > 0 && (!kernel_ns || !kernel_calls)) {
    hd_set_error("%s: heddle_run_profiled: the arrays of results are NULL", MODEL->name);
    return -1;
  }
  struct hd_profile profile = {MODEL->num_kernels, kernel_ns, kernel_calls, 0};
  return run(inputs, num_inputs, outputs, num_outputs, &profile);
}

int32_t hd_infer_shapes(const DLTensor *const *inputs, int32_t num_inputs, int64_t *dims,
                        int32_t capacity) {
  hd_call call;
  const int64_t total = hd_total_output_dims();
  if (capacity < total || (total > 0 && !dims)) {
    hd_set_error("%s: heddle_infer_shapes: got room for %d dimensions, expected %lld", MODEL->name,
                 dims ? capacity : 0, (long long)total);
    return -1;
  }
  if (hd_call_begin(&call) != 0) return -1;
  int32_t status = hd_check_inputs(&call, inputs, num_inputs);
  if (status == 0 && total > 0) memcpy(dims, call.output_dims, (size_t)total * sizeof *dims);
  hd_call_end(&call);
  return status;
}

int32_t heddle_infer_shapes(const DLTensor *const *inputs, int32_t num_inputs, int64_t *dims,
                            int32_t capacity) {
  return hd_infer_shapes(inputs, num_inputs, dims, capacity);
}

/* ---- the rest -------------------------------------------------------------------------------- */

const char *heddle_last_error(void) { return hd_get_error(); }

const hd_model *heddle_get_model(void) { return MODEL; }

const char *hd_metadata(void) { return MODEL->metadata_json ? MODEL->metadata_json : "{}"; }

const char *heddle_metadata(void) { return hd_metadata(); }

int32_t heddle_set_num_threads(int32_t count) { return hd_set_num_threads(count); }

int32_t heddle_get_num_threads(void) { return hd_num_threads(); }

void heddle_trim(void) { hd_arena_trim(); }
