/* SPDX-License-Identifier: Apache-2.0 */
/* The part of DLPack (https://github.com/dmlc/dlpack, Apache-2.0) that Heddle needs. The official
 * header is used instead when it was included before or can be found. */
#ifndef HEDDLE_DLPACK_H_
#define HEDDLE_DLPACK_H_

#include <stdint.h>

#if !defined(DLPACK_DLPACK_H_) && defined(__has_include)
#if __has_include(<dlpack/dlpack.h>)
#include <dlpack/dlpack.h>
#endif
#endif

#ifndef DLPACK_DLPACK_H_
#define DLPACK_DLPACK_H_

/* Type codes that models use: DLDataType.code. */
typedef enum {
  kDLInt = 0,
  kDLUInt = 1,
  kDLFloat = 2,
  kDLBfloat = 4,
  kDLBool = 6
} DLDataTypeCode;

/* Memory that a model accepts: DLDevice.device_type. */
typedef enum { kDLCPU = 1 } DLDeviceType;

typedef struct {
  DLDeviceType device_type;
  int32_t device_id;
} DLDevice;

typedef struct {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes; /* 1 for a scalar type */
} DLDataType;

typedef struct {
  void *data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape;
  int64_t *strides; /* in elements; NULL means contiguous */
  uint64_t byte_offset;
} DLTensor;

#endif /* DLPACK_DLPACK_H_ */
#endif /* HEDDLE_DLPACK_H_ */
