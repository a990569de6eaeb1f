/* SPDX-License-Identifier: Apache-2.0 */
/* Aligned memory, and the working memory of calls.
 *
 * Each call of a model takes one block from a free list and puts it back, so concurrent calls never
 * share memory and a call in steady state allocates nothing. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "internal.h"

#define MIN_ALIGNMENT 64
#define HUGE_PAGE ((int64_t)2 << 20)

void *hd_alloc(int64_t size, int64_t alignment) {
  if (size < 0) {
    hd_set_error("cannot allocate %lld bytes", (long long)size);
    return NULL;
  }
  if (alignment < MIN_ALIGNMENT) alignment = MIN_ALIGNMENT;
  if (size >= HUGE_PAGE && alignment < HUGE_PAGE) alignment = HUGE_PAGE;
  void *pointer = NULL;
  if (size > INT64_MAX / 2 || (uint64_t)size > SIZE_MAX / 2 ||
      posix_memalign(&pointer, (size_t)alignment, size > 0 ? (size_t)size : 1) != 0) {
    hd_set_error("out of memory: cannot allocate %lld bytes", (long long)size);
    return NULL;
  }
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  /* Fewer page faults and TLB misses; failing is harmless. */
  if (size >= HUGE_PAGE) (void)madvise(pointer, (size_t)size, MADV_HUGEPAGE);
#endif
  return pointer;
}

void hd_free(void *pointer) { free(pointer); }

/* A block is one allocation: the user's memory, and its record kept apart so that the memory can
 * start on a huge page. */
typedef struct block {
  struct block *next;
  void *pointer;
  int64_t size;
  int64_t alignment;
} block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block *idle; /* not in use, most recently used first */
static block *busy; /* in use; its length is the number of concurrent calls */

static void free_blocks(block *list) {
  while (list) {
    block *next = list->next;
    hd_free(list->pointer);
    free(list);
    list = next;
  }
}

/* Grows `found` (or makes a new block) to hold size bytes. */
static block *fit_block(block *found, int64_t size, int64_t alignment) {
  if (found && found->size >= size && found->alignment >= alignment) return found;
  if (!found) found = calloc(1, sizeof *found);
  if (!found) {
    hd_set_error("out of memory: cannot allocate the record of an arena");
    return NULL;
  }
  hd_free(found->pointer);
  found->pointer = hd_alloc(size, alignment);
  if (!found->pointer) {
    free(found);
    return NULL;
  }
  found->size = size;
  found->alignment = alignment;
  return found;
}

void *hd_arena_acquire(int64_t size, int64_t alignment) {
  pthread_mutex_lock(&lock);
  block *found = idle;
  if (found) idle = found->next;
  pthread_mutex_unlock(&lock);
  found = fit_block(found, size, alignment);
  if (!found) return NULL;
  pthread_mutex_lock(&lock);
  found->next = busy;
  busy = found;
  pthread_mutex_unlock(&lock);
  return found->pointer;
}

void hd_arena_release(void *pointer) {
  if (!pointer) return;
  pthread_mutex_lock(&lock);
  for (block **link = &busy; *link; link = &(*link)->next) {
    block *found = *link;
    if (found->pointer != pointer) continue;
    *link = found->next;
    found->next = idle;
    idle = found;
    break;
  }
  pthread_mutex_unlock(&lock);
}

void hd_arena_trim(void) {
  pthread_mutex_lock(&lock);
  block *list = idle;
  idle = NULL;
  pthread_mutex_unlock(&lock);
  free_blocks(list);
}

/* A child of fork must not find the lock held by a thread that it does not have. */
static void lock_list(void) { pthread_mutex_lock(&lock); }
static void unlock_list(void) { pthread_mutex_unlock(&lock); }
__attribute__((constructor)) static void watch_fork(void) {
  pthread_atfork(lock_list, unlock_list, unlock_list);
}

/* When the library is unloaded. */
__attribute__((destructor)) static void free_idle_arenas(void) { hd_arena_trim(); }
