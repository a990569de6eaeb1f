/* SPDX-License-Identifier: Apache-2.0 */
/* The working memory of calls and of kernels.
 *
 * Each call of a model takes one block from a pool and puts it back, and so does each buffer inside
 * a kernel: concurrent calls never share memory, and in steady state nothing is allocated (fresh
 * memory costs a page fault every 4 KiB, more than a kernel does with it). */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "internal.h"

#define MIN_ALIGNMENT 64
#define HUGE_PAGE ((int64_t)2 << 20)

static void *system_alloc(int64_t size, int64_t alignment) {
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

/* A block is one allocation: the user's memory, and its record kept apart so that the memory can
 * start on a huge page. */
typedef struct block {
  struct block *next;
  void *pointer;
  int64_t size;
  int64_t alignment;
} block;

/* Blocks that are kept between uses. `idle` ones are listed most recently used first; the length of
 * `busy` is the number of uses at the same time. */
typedef struct pool {
  block *idle;
  block *busy;
} pool;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pool arenas;     /* one for each call of a model */
static pool workspaces; /* one for each buffer inside a kernel, and each task where it is private */

static void free_blocks(block *list) {
  while (list) {
    block *next = list->next;
    free(list->pointer);
    free(list);
    list = next;
  }
}

static int fits(const block *found, int64_t size, int64_t alignment) {
  return found->size >= size && found->alignment >= alignment;
}

/* Takes the smallest idle block that fits out of the pool, or else the largest, which will grow: so
 * there are never more blocks than are used at the same time. */
static block *take_idle(pool *from, int64_t size, int64_t alignment) {
  block **best = NULL;
  for (block **link = &from->idle; *link; link = &(*link)->next) {
    if (!best) {
      best = link;
      continue;
    }
    int fit = fits(*link, size, alignment), best_fit = fits(*best, size, alignment);
    int better = fit ? !best_fit || (*link)->size < (*best)->size
                     : !best_fit && (*link)->size > (*best)->size;
    if (better) best = link;
  }
  if (!best) return NULL;
  block *found = *best;
  *best = found->next;
  return found;
}

/* Grows `found` (or makes a new block) to hold size bytes. */
static block *fit_block(block *found, int64_t size, int64_t alignment) {
  if (found && fits(found, size, alignment)) return found;
  if (!found) found = calloc(1, sizeof *found);
  if (!found) {
    hd_set_error("out of memory: cannot allocate the record of an arena");
    return NULL;
  }
  free(found->pointer);
  found->pointer = system_alloc(size, alignment);
  if (!found->pointer) {
    free(found);
    return NULL;
  }
  found->size = size;
  found->alignment = alignment;
  return found;
}

static void *acquire(pool *from, int64_t size, int64_t alignment) {
  pthread_mutex_lock(&lock);
  block *found = take_idle(from, size, alignment);
  pthread_mutex_unlock(&lock);
  found = fit_block(found, size, alignment);
  if (!found) return NULL;
  pthread_mutex_lock(&lock);
  found->next = from->busy;
  from->busy = found;
  pthread_mutex_unlock(&lock);
  return found->pointer;
}

static void release(pool *to, void *pointer) {
  if (!pointer) return;
  pthread_mutex_lock(&lock);
  for (block **link = &to->busy; *link; link = &(*link)->next) {
    block *found = *link;
    if (found->pointer != pointer) continue;
    *link = found->next;
    found->next = to->idle;
    to->idle = found;
    break;
  }
  pthread_mutex_unlock(&lock);
}

void *hd_arena_acquire(int64_t size, int64_t alignment) {
  return acquire(&arenas, size, alignment);
}

void hd_arena_release(void *pointer) { release(&arenas, pointer); }

void *hd_alloc(int64_t size, int64_t alignment) { return acquire(&workspaces, size, alignment); }

void hd_free(void *pointer) { release(&workspaces, pointer); }

void hd_arena_trim(void) {
  pthread_mutex_lock(&lock);
  block *lists[] = {arenas.idle, workspaces.idle};
  arenas.idle = workspaces.idle = NULL;
  pthread_mutex_unlock(&lock);
  free_blocks(lists[0]);
  free_blocks(lists[1]);
}

/* A child of fork must not find the lock held by a thread that it does not have. */
static void lock_list(void) { pthread_mutex_lock(&lock); }
static void unlock_list(void) { pthread_mutex_unlock(&lock); }
__attribute__((constructor)) static void watch_fork(void) {
  pthread_atfork(lock_list, unlock_list, unlock_list);
}

/* When the library is unloaded. */
__attribute__((destructor)) static void free_idle_arenas(void) { hd_arena_trim(); }
