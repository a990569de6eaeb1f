/* SPDX-License-Identifier: Apache-2.0 */
/* Entry points in the TVM FFI convention: `main(inputs..., outputs...)` and `metadata()`. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_DEFAULT */
#endif
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "heddle_tvm_ffi.h"
#include "internal.h"

#define MODEL (&heddle_model)
#define INLINE_ARGS 32

/* Present when libtvm_ffi is in the process; looked up when needed, so that the library loads
 * without it, before it and after it. */
static void *find_ffi(const char *name) { return dlsym(RTLD_DEFAULT, name); }

static int raise_error(const char *kind, const char *message) {
  void *found = find_ffi("TVMFFIErrorSetRaisedFromCStr");
  void (*set_raised)(const char *, const char *);
  memcpy(&set_raised, &found, sizeof found); /* ISO C has no cast from object to function pointer */
  if (set_raised) set_raised(kind, message);
  return -1;
}

/* A number given where the model has an input of rank 0. */
typedef struct scalar {
  DLTensor tensor;
  union {
    int64_t i;
    uint64_t u;
    double f64;
    float f32;
    uint8_t bytes[8];
  } value;
} scalar;

static void store_integer(scalar *cell, int64_t value) {
  switch (cell->tensor.dtype.bits) {
    case 8: {
      int8_t narrow = (int8_t)value;
      memcpy(cell->value.bytes, &narrow, sizeof narrow);
      break;
    }
    case 16: {
      int16_t narrow = (int16_t)value;
      memcpy(cell->value.bytes, &narrow, sizeof narrow);
      break;
    }
    case 32: {
      int32_t narrow = (int32_t)value;
      memcpy(cell->value.bytes, &narrow, sizeof narrow);
      break;
    }
    default:
      cell->value.i = value;
  }
}

static int fits(int64_t value, DLDataType dtype) {
  if (dtype.code == kDLBool) return value == 0 || value == 1;
  if (dtype.code == kDLUInt) {
    return value >= 0 && (dtype.bits >= 63 || value < (int64_t)1 << dtype.bits);
  }
  if (dtype.bits >= 64) return 1;
  const int64_t half = (int64_t)1 << (dtype.bits - 1);
  return value >= -half && value < half;
}

/* Makes a rank-0 tensor of a number; NULL with the error set if the input does not take it. */
static const DLTensor *wrap_scalar(const TVMFFIAny *arg, int32_t index, scalar *cell) {
  const hd_arg_desc *desc = &MODEL->inputs[index];
  const int is_integer = arg->type_index != HD_FFI_FLOAT;
  const int to_integer = desc->code == kDLInt || desc->code == kDLUInt || desc->code == kDLBool;
  const int to_float = desc->code == kDLFloat && desc->bits >= 32;
  memset(cell, 0, sizeof *cell);
  cell->tensor.data = &cell->value;
  cell->tensor.device.device_type = kDLCPU;
  cell->tensor.dtype = (DLDataType){desc->code, desc->bits, desc->lanes};
  if (desc->ndim != 0 || !(to_float || (is_integer && to_integer))) {
    hd_set_error("%s: input `%s`: got %s, expected a tensor of %d dimensions", MODEL->name,
                 desc->name, is_integer ? "an integer" : "a float", desc->ndim);
    return NULL;
  }
  if (to_float) {
    const double value = is_integer ? (double)arg->v_int64 : arg->v_float64;
    if (desc->bits == 64) {
      cell->value.f64 = value;
    } else {
      cell->value.f32 = (float)value;
    }
  } else if (!fits(arg->v_int64, cell->tensor.dtype)) {
    hd_set_error("%s: input `%s`: %lld is out of the range of its dtype", MODEL->name, desc->name,
                 (long long)arg->v_int64);
    return NULL;
  } else {
    store_integer(cell, arg->v_int64);
  }
  return &cell->tensor;
}

/* The DLTensor of argument `index` (inputs first, then outputs); NULL with the error set. */
static const DLTensor *unwrap(const TVMFFIAny *arg, int32_t index, scalar *cells) {
  const int is_input = index < MODEL->num_inputs;
  const hd_arg_desc *desc =
      is_input ? &MODEL->inputs[index] : &MODEL->outputs[index - MODEL->num_inputs];
  switch (arg->type_index) {
    case HD_FFI_DLTENSOR_PTR:
      if (arg->v_ptr) return arg->v_ptr;
      break;
    case HD_FFI_TENSOR:
      return (const DLTensor *)((const char *)arg->v_ptr + HD_FFI_OBJECT_HEADER_SIZE);
    case HD_FFI_INT:
    case HD_FFI_BOOL:
    case HD_FFI_FLOAT:
      if (is_input) return wrap_scalar(arg, index, &cells[index]);
      break;
    default:
      break;
  }
  hd_set_error("%s: %s `%s`: expected a tensor, got %s (TVM FFI type %d)", MODEL->name,
               is_input ? "input" : "output", desc->name,
               arg->type_index == HD_FFI_NONE ? "None" : "another object", arg->type_index);
  return NULL;
}

static int call_with(const TVMFFIAny *args, const DLTensor **tensors, scalar *cells) {
  const int32_t num_inputs = MODEL->num_inputs, num_outputs = MODEL->num_outputs;
  for (int32_t i = 0; i < num_inputs + num_outputs; ++i) {
    tensors[i] = unwrap(&args[i], i, cells);
    if (!tensors[i]) return raise_error("TypeError", hd_get_error());
  }
  DLTensor *const *outputs = (DLTensor *const *)(tensors + num_inputs);
  if (hd_run(tensors, num_inputs, outputs, num_outputs) != 0) {
    return raise_error("ValueError", hd_get_error());
  }
  return 0;
}

HD_EXPORT int __tvm_ffi_main(void *self, const TVMFFIAny *args, int32_t num_args,
                             TVMFFIAny *result);
int __tvm_ffi_main(void *self, const TVMFFIAny *args, int32_t num_args, TVMFFIAny *result) {
  (void)self;
  const int32_t expected = MODEL->num_inputs + MODEL->num_outputs;
  if (num_args != expected) {
    hd_set_error("%s: got %d arguments, expected %d inputs followed by %d outputs", MODEL->name,
                 num_args, MODEL->num_inputs, MODEL->num_outputs);
    return raise_error("TypeError", hd_get_error());
  }
  const DLTensor *inline_tensors[INLINE_ARGS];
  scalar inline_cells[INLINE_ARGS];
  const DLTensor **tensors = inline_tensors;
  scalar *cells = inline_cells;
  void *allocated = NULL;
  if (expected > INLINE_ARGS) {
    allocated = malloc((size_t)expected * (sizeof *cells + sizeof *tensors));
    if (!allocated) return raise_error("MemoryError", "cannot allocate the records of a call");
    cells = allocated;
    tensors = (const DLTensor **)(cells + expected);
  }
  int status = call_with(args, tensors, cells);
  free(allocated);
  if (status == 0) {
    result->type_index = HD_FFI_NONE;
    result->zero_padding = 0;
    result->v_int64 = 0;
  }
  return status;
}

HD_EXPORT int __tvm_ffi_metadata(void *self, const TVMFFIAny *args, int32_t num_args,
                                 TVMFFIAny *result);
int __tvm_ffi_metadata(void *self, const TVMFFIAny *args, int32_t num_args, TVMFFIAny *result) {
  (void)self;
  (void)args;
  (void)num_args;
  void *found = find_ffi("TVMFFIStringFromByteArray");
  int (*make_string)(const TVMFFIByteArray *, TVMFFIAny *);
  memcpy(&make_string, &found, sizeof found);
  if (!make_string) return raise_error("RuntimeError", "libtvm_ffi is not loaded globally");
  const char *text = hd_metadata();
  const TVMFFIByteArray bytes = {text, strlen(text)};
  return make_string(&bytes, result);
}
