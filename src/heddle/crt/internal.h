/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the files of the runtime; not seen by generated code. */
#ifndef HEDDLE_INTERNAL_H_
#define HEDDLE_INTERNAL_H_

#include <stddef.h>
#include <stdint.h>

#include "heddle_abi.h"

#if defined(_WIN32)
#define HD_EXPORT __declspec(dllexport)
#else
#define HD_EXPORT __attribute__((visibility("default")))
#endif

#define HD_ERROR_SIZE 4096

/* error.c */
const char *hd_get_error(void);
void hd_clear_error(void);

/* arena.c: blocks are kept for the next call and shared by all threads of the library. */
void *hd_arena_acquire(int64_t size, int64_t alignment);
void hd_arena_release(void *pointer);
void hd_arena_trim(void);

/* threadpool.c */
int32_t hd_set_num_threads(int32_t count);
/* Between the two the workers expect more work soon and spin longer before they park. */
void hd_pool_hot_begin(void);
void hd_pool_hot_end(void);

/* profile.c */
struct hd_profile {
  int32_t num_kernels;
  int64_t *kernel_ns;
  int64_t *kernel_calls;
  int64_t started_ns;
};
int64_t hd_now_ns(void);

#endif /* HEDDLE_INTERNAL_H_ */
