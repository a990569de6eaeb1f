/* SPDX-License-Identifier: Apache-2.0 */
/* The part of the TVM FFI C ABI (https://github.com/apache/tvm-ffi, Apache-2.0) that an exported
 * function needs. Nothing here links against libtvm_ffi. */
#ifndef HEDDLE_TVM_FFI_H_
#define HEDDLE_TVM_FFI_H_

#include <stddef.h>
#include <stdint.h>

enum {
  HD_FFI_NONE = 0,
  HD_FFI_INT = 1,
  HD_FFI_BOOL = 2,
  HD_FFI_FLOAT = 3,
  HD_FFI_DLTENSOR_PTR = 7,
  HD_FFI_TENSOR = 70
};

/* A Tensor object is a 24-byte object header followed by its DLTensor. */
#define HD_FFI_OBJECT_HEADER_SIZE 24

typedef struct {
  int32_t type_index;
  uint32_t zero_padding;
  union {
    int64_t v_int64;
    double v_float64;
    void *v_ptr;
  };
} TVMFFIAny;

typedef struct {
  const char *data;
  size_t size;
} TVMFFIByteArray;

#endif /* HEDDLE_TVM_FFI_H_ */
