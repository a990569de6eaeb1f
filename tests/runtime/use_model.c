/* SPDX-License-Identifier: Apache-2.0 */
/* A program without Python: runs the library given by path when it is linked against it. */
#include <stdio.h>

#include "fake.h"

static DLTensor tensor(void *data, int32_t ndim, int64_t *shape, uint8_t code, uint8_t bits) {
  DLTensor made = {0};
  made.data = data;
  made.device.device_type = kDLCPU;
  made.ndim = ndim;
  made.dtype.code = code;
  made.dtype.bits = bits;
  made.dtype.lanes = 1;
  made.shape = shape;
  return made;
}

int main(void) {
  float x[2][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}}, y[2][4] = {{1, 1, 1, 1}, {2, 2, 2, 2}};
  float z[2][4], total;
  int64_t scale = 10, shape[2] = {2, 4}, dims[2];
  DLTensor tx = tensor(x, 2, shape, kDLFloat, 32), ty = tensor(y, 2, shape, kDLFloat, 32);
  DLTensor ts = tensor(&scale, 0, NULL, kDLInt, 64), tz = tensor(z, 2, shape, kDLFloat, 32);
  DLTensor tt = tensor(&total, 0, NULL, kDLFloat, 32);
  const DLTensor *inputs[fake_NUM_INPUTS] = {&tx, &ty, &ts};
  DLTensor *outputs[fake_NUM_OUTPUTS] = {&tz, &tt};
  if (fake_infer_shapes(inputs, 3, dims, 2) != 0) return 1;
  if (fake_run(inputs, 3, outputs, 2) != 0) {
    puts(fake_last_error());
    return 1;
  }
  printf("%lldx%lld %g %g %g\n", (long long)dims[0], (long long)dims[1], z[0][0], z[1][3], total);
  tx.dtype.bits = 64;
  if (heddle_run(inputs, 3, outputs, 2) == 0) return 1;
  puts(heddle_last_error());
  return 0;
}
