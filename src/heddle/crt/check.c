/* SPDX-License-Identifier: Apache-2.0 */
/* Checks everything about the arguments of a call before generated code sees them. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define MODEL (&heddle_model)

typedef struct label {
  const char *role; /* "input" or "output" */
  const hd_arg_desc *desc;
} label;

#define FAIL(where, format, ...)                                                            \
  (hd_set_error("%s: %s `%s`: " format, MODEL->name, (where).role, (where).desc->name,      \
                __VA_ARGS__),                                                               \
   -1)

int64_t hd_total_output_dims(void) {
  int64_t total = 0;
  for (int32_t i = 0; i < MODEL->num_outputs; ++i) total += MODEL->outputs[i].ndim;
  return total;
}

int32_t hd_call_begin(hd_call *call) {
  const int64_t inputs = MODEL->num_inputs, outputs = MODEL->num_outputs;
  const int64_t symbols = (int64_t)MODEL->num_symbols + MODEL->num_late_symbols;
  const int64_t dims = hd_total_output_dims();
  const int64_t needed = 2 * symbols + dims + 2 * inputs + 2 * outputs;
  _Static_assert(sizeof(void *) <= sizeof(int64_t), "pointers fit in a word");
  call->allocated = NULL;
  int64_t *words = call->words;
  if (needed > HD_INLINE_WORDS) {
    words = call->allocated = malloc((size_t)needed * sizeof(int64_t));
    if (!words) {
      hd_set_error("%s: out of memory: cannot allocate the records of a call", MODEL->name);
      return -1;
    }
  }
  call->symbols = words;
  call->bound_by = words += symbols;
  call->output_dims = words += symbols;
  call->input_bytes = words += dims;
  call->output_bytes = words += inputs;
  call->inputs = (void **)(words += outputs);
  call->outputs = (void **)(words + inputs);
  for (int64_t k = 0; k < symbols; ++k) call->symbols[k] = -1;
  return 0;
}

void hd_call_end(hd_call *call) { free(call->allocated); }

/* ---- what tensors are ------------------------------------------------------------------------ */

static const char *dtype_text(unsigned code, unsigned bits, unsigned lanes, char *text,
                              size_t size) {
  const char *base = code == 0   ? "int"
                     : code == 1 ? "uint"
                     : code == 2 ? "float"
                     : code == 4 ? "bfloat"
                     : code == 5 ? "complex"
                                 : NULL;
  if (code == kDLBool && bits == 8 && lanes == 1) {
    snprintf(text, size, "bool");
  } else if (!base) {
    snprintf(text, size, "DLPack type (code %u, %u bits, %u lanes)", code, bits, lanes);
  } else if (lanes == 1) {
    snprintf(text, size, "%s%u", base, bits);
  } else {
    snprintf(text, size, "%s%ux%u", base, bits, lanes);
  }
  return text;
}

static int32_t check_count(const char *role, int32_t got, int32_t expected, const void *array) {
  if (got != expected) {
    hd_set_error("%s: got %d %ss, expected %d", MODEL->name, got, role, expected);
    return -1;
  }
  if (expected > 0 && !array) {
    hd_set_error("%s: the array of %ss is NULL", MODEL->name, role);
    return -1;
  }
  return 0;
}

/* Everything but the shape. */
static int32_t check_kind(label where, const DLTensor *tensor) {
  const hd_arg_desc *desc = where.desc;
  if (!tensor) return FAIL(where, "is NULL, expected a tensor%s", "");
  if (tensor->device.device_type != kDLCPU) {
    return FAIL(where, "is on DLPack device type %d, expected CPU memory (type 1)",
                (int)tensor->device.device_type);
  }
  const DLDataType got = tensor->dtype;
  if (got.code != desc->code || got.bits != desc->bits || got.lanes != desc->lanes) {
    char have[64], want[64];
    return FAIL(where, "dtype is %s, expected %s",
                dtype_text(got.code, got.bits, got.lanes, have, sizeof have),
                dtype_text(desc->code, desc->bits, desc->lanes, want, sizeof want));
  }
  if (tensor->ndim != desc->ndim) {
    return FAIL(where, "has %d dimensions, expected %d", tensor->ndim, desc->ndim);
  }
  if (desc->ndim > 0 && !tensor->shape) return FAIL(where, "shape is NULL%s", "");
  return 0;
}

/* Row-major without gaps; sets the size in bytes. Negative dimensions were ruled out. */
static int32_t check_layout(label where, const DLTensor *tensor, int64_t *bytes) {
  const int32_t ndim = tensor->ndim;
  int64_t size = (where.desc->bits * where.desc->lanes + 7) / 8;
  *bytes = 0;
  for (int32_t axis = 0; axis < ndim; ++axis) {
    if (tensor->shape[axis] == 0) return 0;
  }
  int64_t stride = 1;
  for (int32_t axis = ndim - 1; axis >= 0; --axis) {
    const int64_t dim = tensor->shape[axis];
    if (tensor->strides && dim != 1 && tensor->strides[axis] != stride) {
      return FAIL(where,
                  "is not contiguous: the stride of dimension %d is %lld, expected %lld; "
                  "make a contiguous copy first",
                  axis, (long long)tensor->strides[axis], (long long)stride);
    }
    if (__builtin_mul_overflow(stride, dim, &stride)) {
      return FAIL(where, "has more than 2^63 elements%s", "");
    }
  }
  if (__builtin_mul_overflow(stride, size, bytes)) {
    return FAIL(where, "is larger than 2^63 bytes%s", "");
  }
  return 0;
}

/* The data pointer, and whether it may be used. */
static int32_t check_memory(label where, const DLTensor *tensor, int64_t bytes, void **pointer) {
  *pointer = NULL;
  if (bytes == 0) return 0;
  if (!tensor->data) return FAIL(where, "data is NULL, expected %lld bytes", (long long)bytes);
  const uintptr_t address = (uintptr_t)tensor->data + (uintptr_t)tensor->byte_offset;
  const uintptr_t alignment = (uintptr_t)(where.desc->bits * where.desc->lanes + 7) / 8;
  if (address % alignment != 0) {
    return FAIL(where, "data address 0x%llx is not a multiple of the element size, %d bytes",
                (unsigned long long)address, (int)alignment);
  }
  *pointer = (void *)address;
  return 0;
}

/* ---- inputs ---------------------------------------------------------------------------------- */

static int32_t bind_symbol(hd_call *call, label where, int32_t input, int32_t axis, int64_t got) {
  const int64_t symbol = -1 - where.desc->dims[axis];
  const char *name = MODEL->symbol_names[symbol];
  const int64_t known = call->symbols[symbol];
  if (known >= 0) {
    if (known == got) return 0;
    return FAIL(where, "dimension %d is %lld, expected %lld (`%s`, from input `%s`)", axis,
                (long long)got, (long long)known, name,
                MODEL->inputs[call->bound_by[symbol]].name);
  }
  if (got < MODEL->symbol_min[symbol] || got > MODEL->symbol_max[symbol]) {
    return FAIL(where, "dimension %d is %lld, expected `%s` from %lld to %lld", axis,
                (long long)got, name, (long long)MODEL->symbol_min[symbol],
                (long long)MODEL->symbol_max[symbol]);
  }
  call->symbols[symbol] = got;
  call->bound_by[symbol] = input;
  return 0;
}

static int32_t check_input(hd_call *call, const DLTensor *tensor, int32_t index) {
  const label where = {"input", &MODEL->inputs[index]};
  if (check_kind(where, tensor) != 0) return -1;
  for (int32_t axis = 0; axis < tensor->ndim; ++axis) {
    const int64_t got = tensor->shape[axis], expected = where.desc->dims[axis];
    if (got < 0) return FAIL(where, "dimension %d is negative: %lld", axis, (long long)got);
    if (expected < 0) {
      if (bind_symbol(call, where, index, axis, got) != 0) return -1;
    } else if (got != expected) {
      return FAIL(where, "dimension %d is %lld, expected %lld", axis, (long long)got,
                  (long long)expected);
    }
  }
  return check_layout(where, tensor, &call->input_bytes[index]);
}

int32_t hd_check_inputs(hd_call *call, const DLTensor *const *inputs, int32_t count) {
  if (check_count("input", count, MODEL->num_inputs, inputs) != 0) return -1;
  for (int32_t i = 0; i < count; ++i) {
    if (check_input(call, inputs[i], i) != 0) return -1;
  }
  for (int32_t k = 0; k < MODEL->num_symbols; ++k) {
    if (call->symbols[k] >= 0) continue;
    hd_set_error("%s: no input has the dimension `%s` (a fault of the library)", MODEL->name,
                 MODEL->symbol_names[k]);
    return -1;
  }
  if (MODEL->output_dims) MODEL->output_dims(call->symbols, call->output_dims);
  return 0;
}

static int overlaps(const void *a, int64_t a_bytes, const void *b, int64_t b_bytes) {
  if (a_bytes == 0 || b_bytes == 0) return 0;
  return (uintptr_t)a < (uintptr_t)b + (uintptr_t)b_bytes &&
         (uintptr_t)b < (uintptr_t)a + (uintptr_t)a_bytes;
}

/* Memory that the call writes to is nobody else's. */
static int32_t check_donated(const hd_call *call, int32_t index) {
  const label where = {"input", &MODEL->inputs[index]};
  for (int32_t i = 0; i < MODEL->num_inputs; ++i) {
    if (i != index && overlaps(call->inputs[index], call->input_bytes[index], call->inputs[i],
                               call->input_bytes[i])) {
      return FAIL(where, "is donated and shares memory with input `%s`", MODEL->inputs[i].name);
    }
  }
  return 0;
}

/* Tags are constructors, and children come before their parents: so walks over a value end. */
static int32_t check_data(const hd_call *call, const DLTensor *const *inputs,
                          const hd_data_desc *data) {
  const label tags = {"input", &MODEL->inputs[data->tags]};
  const label children = {"input", &MODEL->inputs[data->children]};
  const int64_t *tag = call->inputs[data->tags], *child = call->inputs[data->children];
  const int64_t nodes = inputs[data->tags]->shape[0], most = inputs[data->children]->shape[1];
  for (int64_t i = 0; i < nodes; ++i) {
    if (tag[i] < 0 || tag[i] >= data->num_constructors) {
      return FAIL(tags, "node %lld has tag %lld, expected 0 to %d", (long long)i,
                  (long long)tag[i], (int)data->num_constructors - 1);
    }
    for (int64_t k = 0; k < data->arity[tag[i]]; ++k) {
      const int64_t below = child[i * most + k];
      if (below >= 0 && below < i) continue;
      return FAIL(children,
                  "child %lld of node %lld is node %lld, expected one of the nodes before it "
                  "(0 to %lld): values have no cycles",
                  (long long)k, (long long)i, (long long)below, (long long)i - 1);
    }
  }
  return 0;
}

int32_t hd_check_input_memory(hd_call *call, const DLTensor *const *inputs) {
  for (int32_t i = 0; i < MODEL->num_inputs; ++i) {
    const label where = {"input", &MODEL->inputs[i]};
    if (check_memory(where, inputs[i], call->input_bytes[i], &call->inputs[i]) != 0) return -1;
  }
  for (int32_t i = 0; i < MODEL->num_inputs; ++i) {
    if (MODEL->inputs[i].memory && check_donated(call, i) != 0) return -1;
  }
  for (int32_t i = 0; i < MODEL->num_data; ++i) {
    if (check_data(call, inputs, &MODEL->data[i]) != 0) return -1;
  }
  return 0;
}

/* ---- outputs --------------------------------------------------------------------------------- */

static int32_t check_overlap(const hd_call *call, int32_t index) {
  const label where = {"output", &MODEL->outputs[index]};
  const void *data = call->outputs[index];
  const int64_t bytes = call->output_bytes[index];
  const int32_t home = where.desc->memory - 1;
  if (home >= 0 && data != call->inputs[home]) {
    return FAIL(where, "is written in place: expected the memory of the donated input `%s`",
                MODEL->inputs[home].name);
  }
  for (int32_t i = 0; i < MODEL->num_inputs; ++i) {
    if (i != home && overlaps(data, bytes, call->inputs[i], call->input_bytes[i])) {
      return FAIL(where, "shares memory with input `%s`", MODEL->inputs[i].name);
    }
  }
  for (int32_t i = 0; i < index; ++i) {
    if (overlaps(data, bytes, call->outputs[i], call->output_bytes[i])) {
      return FAIL(where, "shares memory with output `%s`", MODEL->outputs[i].name);
    }
  }
  return 0;
}

int32_t hd_check_outputs(hd_call *call, DLTensor *const *outputs, int32_t count) {
  if (check_count("output", count, MODEL->num_outputs, outputs) != 0) return -1;
  const int64_t *expected = call->output_dims;
  for (int32_t i = 0; i < count; ++i) {
    const label where = {"output", &MODEL->outputs[i]};
    const DLTensor *tensor = outputs[i];
    if (check_kind(where, tensor) != 0) return -1;
    for (int32_t axis = 0; axis < tensor->ndim; ++axis) {
      if (tensor->shape[axis] == expected[axis]) continue;
      return FAIL(where, "dimension %d is %lld, expected %lld", axis,
                  (long long)tensor->shape[axis], (long long)expected[axis]);
    }
    expected += tensor->ndim;
    if (check_layout(where, tensor, &call->output_bytes[i]) != 0) return -1;
    if (check_memory(where, tensor, call->output_bytes[i], &call->outputs[i]) != 0) return -1;
    if (check_overlap(call, i) != 0) return -1;
  }
  return 0;
}
