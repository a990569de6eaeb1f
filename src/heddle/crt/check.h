/* SPDX-License-Identifier: Apache-2.0 */
/* What a call knows about its arguments, filled while they are checked. */
#ifndef HEDDLE_CHECK_H_
#define HEDDLE_CHECK_H_

#include "heddle_abi.h"
#include "heddle_dlpack.h"

/* Memory for the small arrays of one call: on the stack unless the model has very many arguments. */
#define HD_INLINE_WORDS 512

typedef struct hd_call {
  int64_t *symbols;      /* num_symbols values, -1 until bound, then the late ones */
  int64_t *bound_by;     /* the input that bound each symbol */
  int64_t *output_dims;  /* expected dimensions of all outputs */
  void **inputs;         /* data pointers */
  void **outputs;
  int64_t *input_bytes;
  int64_t *output_bytes;
  int64_t *allocated;    /* NULL when the words below suffice */
  int64_t words[HD_INLINE_WORDS];
} hd_call;

/* Total number of output dimensions. */
int64_t hd_total_output_dims(void);

/* Prepares the arrays; hd_call_end releases them. All return 0 or set the error. */
int32_t hd_call_begin(hd_call *call);
void hd_call_end(hd_call *call);
/* Checks the inputs, binds the symbols and computes the output dimensions. */
int32_t hd_check_inputs(hd_call *call, const DLTensor *const *inputs, int32_t count);
/* Checks the outputs against those dimensions, and all memory for alignment and overlap. */
int32_t hd_check_outputs(hd_call *call, DLTensor *const *outputs, int32_t count);
/* Checks the data pointers of the inputs, after hd_check_inputs and before hd_check_outputs. */
int32_t hd_check_input_memory(hd_call *call, const DLTensor *const *inputs);

/* heddle_run, heddle_infer_shapes and heddle_metadata under hidden names: what the library itself
 * calls is never another library's function of the same name. */
int32_t hd_run(const DLTensor *const *inputs, int32_t num_inputs, DLTensor *const *outputs,
               int32_t num_outputs);
int32_t hd_infer_shapes(const DLTensor *const *inputs, int32_t num_inputs, int64_t *dims,
                        int32_t capacity);
const char *hd_metadata(void);

#endif /* HEDDLE_CHECK_H_ */
