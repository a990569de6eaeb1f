/* SPDX-License-Identifier: Apache-2.0 */
#include <time.h>

#include "internal.h"

int64_t hd_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void hd_profile_begin(struct hd_profile *profile, int32_t kernel) {
  (void)kernel;
  if (profile) profile->started_ns = hd_now_ns();
}

void hd_profile_end(struct hd_profile *profile, int32_t kernel) {
  if (!profile || kernel < 0 || kernel >= profile->num_kernels) return;
  profile->kernel_ns[kernel] += hd_now_ns() - profile->started_ns;
  profile->kernel_calls[kernel] += 1;
}
