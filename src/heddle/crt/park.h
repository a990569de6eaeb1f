/* SPDX-License-Identifier: Apache-2.0 */
/* Sleeping until a 32-bit word changes: futex on Linux, a condition variable elsewhere. */
#ifndef HEDDLE_PARK_H_
#define HEDDLE_PARK_H_

#include <stdatomic.h>
#include <stdint.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Sleeps while *word == expected; may return early. */
static inline void hd_park(_Atomic uint32_t *word, uint32_t expected) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

/* Wakes up to `count` sleepers. */
static inline void hd_unpark(_Atomic uint32_t *word, int count) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

#else
#include <pthread.h>

static pthread_mutex_t hd_park_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t hd_park_changed = PTHREAD_COND_INITIALIZER;

static inline void hd_park(_Atomic uint32_t *word, uint32_t expected) {
  pthread_mutex_lock(&hd_park_lock);
  if (atomic_load(word) == expected) pthread_cond_wait(&hd_park_changed, &hd_park_lock);
  pthread_mutex_unlock(&hd_park_lock);
}

static inline void hd_unpark(_Atomic uint32_t *word, int count) {
  (void)word;
  (void)count;
  pthread_mutex_lock(&hd_park_lock);
  pthread_cond_broadcast(&hd_park_changed);
  pthread_mutex_unlock(&hd_park_lock);
}
#endif

#endif /* HEDDLE_PARK_H_ */
