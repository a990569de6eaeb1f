/* SPDX-License-Identifier: Apache-2.0 */
/* The thread pool: one per process, shared by all model libraries that are loaded.
 *
 * A job splits [0, extent) into one contiguous share per thread. A thread claims chunks of its own
 * share first, so that it meets the same data in the next kernel, and then steals from the others.
 * The caller takes part and waits only for workers that have entered the job: a worker that wakes
 * late finds the job closed and costs nobody anything.
 *
 * Workers spin briefly for the next job and then park. One that finds itself on the processor of the
 * caller moves to another: the system may wake it there, and leaves both there for many milliseconds.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getaffinity, dladdr, RTLD_NODELETE */
#endif
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"
#include "park.h"

#define MAX_THREADS 256
#define CHUNKS_PER_THREAD 8
#define SPIN_COLD_NS 50000
#define SPIN_HOT_NS 200000 /* while a model runs: longer than most serial stretches between loops */
#define SPIN_JOIN_NS 20000
#define WAKE_WORTH_NS 60000 /* waking a parked thread can cost the caller 30 us on virtual machines */
#define PROBE_FROM_CHUNKS 8 /* loops of fewer, perhaps long, chunks wake the workers at once */
#define WORKER_STACK ((size_t)8 << 20)

/* The job word: generation << 16 | OPEN | WAITING | number of workers inside. */
#define OPEN 0x8000u
#define WAITING 0x4000u
#define INSIDE 0x3fffu
#define GENERATION 0x10000u

typedef struct share {
  _Alignas(64) _Atomic int64_t next;
  int64_t end;
} share;

typedef struct pool {
  _Atomic int32_t num_threads; /* 0: not decided yet */
  _Atomic int32_t busy;        /* a caller owns the job below */
  _Atomic int32_t hot;         /* models running now */
  pthread_mutex_t lock;        /* guards starting workers */
  int32_t num_workers;
  int32_t prepared; /* fork handlers installed */
  _Alignas(64) _Atomic uint32_t job;
  _Alignas(64) _Atomic uint32_t epoch; /* counts jobs; workers park on it */
  _Atomic int32_t parked;
  _Atomic int32_t caller_cpu; /* where the owner of the last job ran, plus 1; 0: not known */
  /* Written by the owner while no worker is inside. */
  _Alignas(64) int32_t (*body)(int64_t, int64_t, void *);
  void *env;
  int64_t chunk;
  _Atomic int32_t num_shares;
  _Atomic int32_t status;
  share shares[MAX_THREADS];
} pool;

/* A GNU-unique symbol exists once in the process however its libraries were loaded. The version in
 * the name keeps libraries apart that disagree about the structure. It is defined in assembly since
 * compilers have no attribute for it; all zero is its initial state. Elsewhere every library has a
 * pool of its own. */
#if defined(__ELF__) && defined(__GLIBC__) && !defined(HEDDLE_POOL_PER_LIBRARY)
HD_EXPORT extern pool hd_process_pool_v2;
__asm__(".pushsection .bss.hd_process_pool_v2, \"aw\", %nobits\n"
        ".balign 64\n"
        ".type hd_process_pool_v2, %gnu_unique_object\n"
        ".size hd_process_pool_v2, 20480\n"
        "hd_process_pool_v2:\n"
        ".zero 20480\n"
        ".popsection\n");
_Static_assert(sizeof(pool) <= 20480, "grow the symbol above, and its version");
#define THE_POOL hd_process_pool_v2
#else
static pool process_pool = {.lock = PTHREAD_MUTEX_INITIALIZER};
#define THE_POOL process_pool
#endif

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#endif
}

/* ---- how many threads ------------------------------------------------------------------------ */

static int32_t clamp_threads(long count) {
  return (int32_t)(count < 1 ? 1 : count > MAX_THREADS ? MAX_THREADS : count);
}

#if defined(__linux__)
/* The CPUs that a container may use, rounded up; a large number when there is no limit. */
static int32_t quota_of_container(void) {
  long quota, period;
  int32_t count = MAX_THREADS;
  FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r");
  if (!file) return count;
  if (fscanf(file, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0) {
    count = clamp_threads((quota + period - 1) / period);
  }
  fclose(file);
  return count;
}
#endif

static int32_t default_num_threads(void) {
  const char *text = getenv("HEDDLE_NUM_THREADS");
  if (text && *text) {
    char *end;
    long count = strtol(text, &end, 10);
    if (*end == '\0' && count >= 1) return clamp_threads(count);
  }
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    int32_t cpus = clamp_threads(CPU_COUNT(&set)), quota = quota_of_container();
    return quota < cpus ? quota : cpus;
  }
#endif
  return clamp_threads(sysconf(_SC_NPROCESSORS_ONLN));
}

int32_t hd_num_threads(void) {
  int32_t count = atomic_load_explicit(&THE_POOL.num_threads, memory_order_relaxed);
  if (count > 0) return count;
  int32_t expected = 0;
  count = default_num_threads();
  if (!atomic_compare_exchange_strong(&THE_POOL.num_threads, &expected, count)) return expected;
  return count;
}

int32_t hd_set_num_threads(int32_t count) {
  if (count < 1 || count > MAX_THREADS) {
    hd_set_error("number of threads must be from 1 to %d, got %d", MAX_THREADS, count);
    return -1;
  }
  atomic_store(&THE_POOL.num_threads, count);
  return 0;
}

/* ---- running a job --------------------------------------------------------------------------- */

/* Runs at most `limit` chunks of a share, of at most `most` iterations. Towards the end of a share
 * they become shorter, so that all threads finish together. */
static void drain_share(share *from, int64_t limit, int64_t most) {
  const int64_t end = from->end, least = (most + CHUNKS_PER_THREAD - 1) / CHUNKS_PER_THREAD;
  int64_t begin = atomic_load_explicit(&from->next, memory_order_relaxed);
  while (limit > 0 && begin < end) {
    int64_t size = (end - begin) / 4;
    size = size < least ? least : size > most ? most : size;
    int64_t stop = end - begin < size ? end : begin + size;
    if (!atomic_compare_exchange_weak_explicit(&from->next, &begin, stop, memory_order_relaxed,
                                               memory_order_relaxed)) {
      continue;
    }
    if (atomic_load_explicit(&THE_POOL.status, memory_order_relaxed) != 0) return;
    int32_t status = THE_POOL.body(begin, stop, THE_POOL.env);
    if (status != 0) {
      int32_t expected = 0;
      atomic_compare_exchange_strong(&THE_POOL.status, &expected, status);
      return;
    }
    begin = atomic_load_explicit(&from->next, memory_order_relaxed);
    --limit;
  }
}

static void take_part(int32_t index) {
  const int32_t count = atomic_load_explicit(&THE_POOL.num_shares, memory_order_relaxed);
  for (int32_t i = 0; i < count; ++i) {
    drain_share(&THE_POOL.shares[(index + i) % count], INT64_MAX, THE_POOL.chunk);
  }
}

/* Enters the job if it is open, has a share for this worker, and is not the one it was in last.
 * The share count may be stale here; that costs at most one worker for one job. */
static int enter_job(int32_t index, uint32_t *generation) {
  uint32_t word = atomic_load_explicit(&THE_POOL.job, memory_order_acquire);
  if (index >= atomic_load_explicit(&THE_POOL.num_shares, memory_order_relaxed)) return 0;
  while ((word & OPEN) && word / GENERATION != *generation) {
    if (atomic_compare_exchange_weak_explicit(&THE_POOL.job, &word, word + 1, memory_order_acq_rel,
                                              memory_order_acquire)) {
      *generation = word / GENERATION;
      return 1;
    }
  }
  return 0;
}

static void leave_job(void) {
  uint32_t before = atomic_fetch_sub_explicit(&THE_POOL.job, 1, memory_order_acq_rel);
  if ((before & INSIDE) == 1 && (before & WAITING)) hd_unpark(&THE_POOL.job, 1);
}

/* Where this thread runs, plus 1; 0: not known. */
static int32_t this_cpu(void) {
#if defined(__linux__)
  return (int32_t)sched_getcpu() + 1;
#else
  return 0;
#endif
}

/* Moves this worker away from the processor of the caller, if it may run on others. */
static void keep_off_caller(void) {
#if defined(__linux__)
  const int32_t caller = atomic_load_explicit(&THE_POOL.caller_cpu, memory_order_relaxed);
  cpu_set_t allowed, others;
  if (caller <= 0 || caller > CPU_SETSIZE || this_cpu() != caller) return;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  others = allowed;
  CPU_CLR(caller - 1, &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
  (void)sched_setaffinity(0, sizeof allowed, &allowed);
#endif
}

/* Returns when the epoch is no longer `seen`. */
static void await_epoch(uint32_t seen) {
  const int64_t start = hd_now_ns();
  for (int32_t round = 0;; ++round) {
    for (int i = 0; i < 64; ++i) {
      if (atomic_load_explicit(&THE_POOL.epoch, memory_order_acquire) != seen) return;
      relax();
    }
    int hot = atomic_load_explicit(&THE_POOL.hot, memory_order_relaxed) > 0;
    if (hot && round == 0) keep_off_caller();
    if (hd_now_ns() - start > (hot ? SPIN_HOT_NS : SPIN_COLD_NS)) break;
  }
  atomic_fetch_add(&THE_POOL.parked, 1);
  while (atomic_load(&THE_POOL.epoch) == seen) hd_park(&THE_POOL.epoch, seen);
  atomic_fetch_sub(&THE_POOL.parked, 1);
  keep_off_caller();
}

static void *worker_main(void *argument) {
  const int32_t index = (int32_t)(intptr_t)argument;
  uint32_t generation = UINT32_MAX; /* of the job this worker was in last: none */
  uint32_t seen = atomic_load_explicit(&THE_POOL.epoch, memory_order_acquire);
  for (;;) {
    if (enter_job(index, &generation)) {
      take_part(index);
      leave_job();
    }
    await_epoch(seen);
    seen = atomic_load_explicit(&THE_POOL.epoch, memory_order_acquire);
  }
  return NULL;
}

/* ---- starting workers, surviving dlclose and fork -------------------------------------------- */

static void before_fork(void) { pthread_mutex_lock(&THE_POOL.lock); }
static void after_fork_in_parent(void) { pthread_mutex_unlock(&THE_POOL.lock); }

/* The child has no workers; the next job starts them again. */
static void after_fork_in_child(void) {
  pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
  THE_POOL.lock = fresh;
  THE_POOL.num_workers = 0;
  atomic_store(&THE_POOL.busy, 0);
  atomic_store(&THE_POOL.hot, 0);
  atomic_store(&THE_POOL.parked, 0);
  atomic_store(&THE_POOL.job, 0);
}

/* Workers run the code of the library that starts them: it must never be unmapped. */
static void pin_this_library(void) {
#if defined(RTLD_NOLOAD) && defined(RTLD_NODELETE)
  Dl_info info;
  if (dladdr((void *)(intptr_t)pin_this_library, &info) && info.dli_fname) {
    (void)dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
  }
#endif
}

static int start_worker(int32_t index) {
  pthread_attr_t attributes;
  pthread_t thread;
  sigset_t all, before;
  if (pthread_attr_init(&attributes) != 0) return -1;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, WORKER_STACK);
  sigfillset(&all); /* signals belong to the program's own threads */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failed = pthread_create(&thread, &attributes, worker_main, (void *)(intptr_t)index);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
#if defined(__linux__)
  if (!failed) pthread_setname_np(thread, "heddle");
#endif
  return failed ? -1 : 0;
}

static int pinned; /* this library; guarded by the pool's lock */

/* Called by the owner of the job. Fewer workers than wished for are not an error. */
static void ensure_workers(int32_t wanted) {
  if (THE_POOL.num_workers >= wanted) return;
  pthread_mutex_lock(&THE_POOL.lock);
  /* Not once a process: another library starts workers too, of a larger pool or after a fork. */
  if (!pinned) {
    pinned = 1;
    pin_this_library();
  }
  if (!THE_POOL.prepared) {
    THE_POOL.prepared = 1;
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
  }
  while (THE_POOL.num_workers < wanted && start_worker(THE_POOL.num_workers + 1) == 0) {
    ++THE_POOL.num_workers;
  }
  pthread_mutex_unlock(&THE_POOL.lock);
}

/* ---- the caller's side ----------------------------------------------------------------------- */

static void publish_job(int32_t (*body)(int64_t, int64_t, void *), void *env, int64_t extent,
                        int32_t num_shares) {
  THE_POOL.body = body;
  THE_POOL.env = env;
  atomic_store_explicit(&THE_POOL.caller_cpu, this_cpu(), memory_order_relaxed);
  atomic_store_explicit(&THE_POOL.num_shares, num_shares, memory_order_relaxed);
  THE_POOL.chunk = extent / ((int64_t)num_shares * CHUNKS_PER_THREAD);
  if (THE_POOL.chunk < 1) THE_POOL.chunk = 1;
  atomic_store_explicit(&THE_POOL.status, 0, memory_order_relaxed);
  const int64_t base = extent / num_shares, extra = extent % num_shares;
  int64_t begin = 0;
  for (int32_t i = 0; i < num_shares; ++i) {
    atomic_store_explicit(&THE_POOL.shares[i].next, begin, memory_order_relaxed);
    begin += base + (i < extra);
    THE_POOL.shares[i].end = begin;
  }
  /* The job is closed and empty: nobody else writes the word now. */
  uint32_t word = atomic_load_explicit(&THE_POOL.job, memory_order_relaxed);
  uint32_t opened = (word & ~(GENERATION - 1)) + GENERATION;
  atomic_store_explicit(&THE_POOL.job, opened | OPEN, memory_order_release);
  atomic_fetch_add(&THE_POOL.epoch, 1);
}

/* Spinning workers have seen the job already. Parked ones are woken when it is worth the system
 * call: after the caller has timed a part of the first chunk of many, so that a small loop costs
 * what it costs serially. */
static void wake_workers(int64_t extent) {
  if (atomic_load(&THE_POOL.parked) == 0) return;
  const int64_t chunk = THE_POOL.chunk, part = (chunk + CHUNKS_PER_THREAD - 1) / CHUNKS_PER_THREAD;
  if ((extent + chunk - 1) / chunk >= PROBE_FROM_CHUNKS) {
    const int64_t start = hd_now_ns();
    int64_t done = 0, took = 0;
    while (done < chunk && took < WAKE_WORTH_NS / CHUNKS_PER_THREAD) {
      drain_share(&THE_POOL.shares[0], 1, part);
      done += part;
      took = hd_now_ns() - start;
    }
    if (took * (extent - done) < WAKE_WORTH_NS * done) return;
  }
  hd_unpark(&THE_POOL.epoch, MAX_THREADS);
}

/* Closes the job and waits for the workers inside. */
static void join_job(void) {
  uint32_t word = atomic_fetch_and_explicit(&THE_POOL.job, ~OPEN, memory_order_acq_rel);
  if ((word & INSIDE) == 0) return;
  const int64_t start = hd_now_ns();
  do {
    for (int i = 0; i < 64; ++i) {
      if ((atomic_load_explicit(&THE_POOL.job, memory_order_acquire) & INSIDE) == 0) return;
      relax();
    }
  } while (hd_now_ns() - start < SPIN_JOIN_NS);
  word = atomic_fetch_or_explicit(&THE_POOL.job, WAITING, memory_order_acq_rel) | WAITING;
  while ((word & INSIDE) != 0) {
    hd_park(&THE_POOL.job, word);
    word = atomic_load_explicit(&THE_POOL.job, memory_order_acquire);
  }
}

/* The thread-local error of a worker has to reach the caller; the worker's loop may be the code of
 * another library, with an error buffer of its own, so the body carries it. */
typedef struct carrier {
  int32_t (*body)(int64_t, int64_t, void *);
  void *env;
  _Atomic int32_t failed;
  char message[HD_ERROR_SIZE];
} carrier;

static int32_t carry_error(int64_t begin, int64_t end, void *env) {
  carrier *self = env;
  int32_t status = self->body(begin, end, self->env);
  if (status != 0 && atomic_exchange(&self->failed, 1) == 0) {
    strncpy(self->message, hd_get_error(), HD_ERROR_SIZE - 1);
    self->message[HD_ERROR_SIZE - 1] = '\0';
  }
  return status;
}

int32_t hd_parallel_for(int32_t (*body)(int64_t, int64_t, void *), void *env, int64_t extent) {
  if (extent <= 0) return 0;
  const int32_t threads = hd_num_threads();
  if (threads == 1 || extent == 1) return body(0, extent, env);
  int32_t idle = 0;
  if (atomic_load_explicit(&THE_POOL.busy, memory_order_relaxed) != 0 ||
      !atomic_compare_exchange_strong_explicit(&THE_POOL.busy, &idle, 1, memory_order_acquire,
                                               memory_order_relaxed)) {
    return body(0, extent, env); /* nested, or another caller has the pool */
  }
  ensure_workers(threads - 1);
  carrier carried;
  carried.body = body;
  carried.env = env;
  atomic_init(&carried.failed, 0);
  publish_job(carry_error, &carried, extent, (int32_t)(extent < threads ? extent : threads));
  wake_workers(extent);
  take_part(0);
  join_job();
  int32_t status = atomic_load_explicit(&THE_POOL.status, memory_order_relaxed);
  atomic_store_explicit(&THE_POOL.busy, 0, memory_order_release);
  if (status != 0) hd_set_error("%s", carried.message);
  return status;
}

void hd_pool_hot_begin(void) {
  atomic_fetch_add_explicit(&THE_POOL.hot, 1, memory_order_relaxed);
}

void hd_pool_hot_end(void) {
  atomic_fetch_sub_explicit(&THE_POOL.hot, 1, memory_order_relaxed);
}
