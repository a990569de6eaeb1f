/* SPDX-License-Identifier: Apache-2.0 */
/* A model written by hand where the compiler's output would be:
 *   z[n, 4] = x[n, 4] + y[n, 4] * constants[4],  total[] = sum(z) * scale,
 * with `n` from 0 to 100000. An x that holds 12345 makes its kernel fail. */
#include <stddef.h>

#include "heddle_abi.h"

#ifndef MODEL_NAME
#define MODEL_NAME "fake"
#endif

static const int64_t matrix_dims[] = {-1, 4};
static const hd_arg_desc inputs[] = {
    {"x", 2, 32, 1, 2, matrix_dims},
    {"y", 2, 32, 1, 2, matrix_dims},
    {"scale", 0, 64, 1, 0, NULL},
};
static const hd_arg_desc outputs[] = {
    {"z", 2, 32, 1, 2, matrix_dims},
    {"total", 2, 32, 1, 0, NULL},
};
static const char *const symbol_names[] = {"n"};
static const int64_t symbol_min[] = {0}, symbol_max[] = {100000};
static const char *const kernel_names[] = {"multiply_add", "sum"};

static int64_t arena_size(const int64_t *symbols) { return symbols[0] * 4; }

static void output_dims(const int64_t *symbols, int64_t *dims) {
  dims[0] = symbols[0];
  dims[1] = 4;
}

static int32_t multiply_add(int64_t begin, int64_t end, void *env) {
  const hd_context *ctx = env;
  const float *x = ctx->inputs[0], *y = ctx->inputs[1];
  const float *constants = (const float *)ctx->constants;
  float *z = ctx->outputs[0], *row_sums = (float *)ctx->arena;
  for (int64_t i = begin; i < end; ++i) {
    float sum = 0;
    for (int64_t j = 0; j < 4; ++j) {
      if (x[i * 4 + j] == 12345.0f) {
        hd_set_error("row %lld is unlucky", (long long)i);
        return 7;
      }
      z[i * 4 + j] = x[i * 4 + j] + y[i * 4 + j] * constants[j];
      sum += z[i * 4 + j];
    }
    row_sums[i] = sum;
  }
  return 0;
}

static int32_t run(const hd_context *ctx) {
  hd_profile_begin(ctx->profile, 0);
  int32_t status = hd_parallel_for(multiply_add, (void *)ctx, ctx->symbols[0]);
  hd_profile_end(ctx->profile, 0);
  if (status != 0) return status;
  hd_profile_begin(ctx->profile, 1);
  double total = 0;
  for (int64_t i = 0; i < ctx->symbols[0]; ++i) total += ((const float *)ctx->arena)[i];
  *(float *)ctx->outputs[1] = (float)(total * (double)*(const int64_t *)ctx->inputs[2]);
  hd_profile_end(ctx->profile, 1);
  return 0;
}

#ifndef ABI
#define ABI HEDDLE_ABI_VERSION
#endif
const hd_model heddle_model = {
    .abi_version = ABI,
    .name = MODEL_NAME,
    .num_inputs = 3,
    .num_outputs = 2,
    .num_symbols = 1,
    .num_kernels = 2,
    .inputs = inputs,
    .outputs = outputs,
    .symbol_names = symbol_names,
    .symbol_min = symbol_min,
    .symbol_max = symbol_max,
    .kernel_names = kernel_names,
    .constants_size = 16,
    .arena_alignment = 64,
    .arena_size = arena_size,
    .output_dims = output_dims,
    .main = run,
    .metadata_json = "{\"kernels\": [{\"name\": \"multiply_add\", \"flops\": 8000, \"bytes\": "
                     "48000}, {\"name\": \"sum\", \"flops\": 1000, \"bytes\": 4000}]}",
};
