/* SPDX-License-Identifier: Apache-2.0 */
/* Stress and speed of the thread pool alone. Usage: pool_bench [threads] [stress-seconds]
 * Prints the fork-join time of an empty loop; exits nonzero when a range is lost or run twice. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../src/heddle/crt/internal.h"

#define EXTENT 1000
static int32_t empty(int64_t begin, int64_t end, void *env) {
  (void)begin, (void)end, (void)env;
  return 0;
}

static int32_t mark(int64_t begin, int64_t end, void *env) {
  atomic_int *marks = env;
  for (int64_t i = begin; i < end; ++i) atomic_fetch_add_explicit(&marks[i], 1, memory_order_relaxed);
  return 0;
}

static int32_t fail_late(int64_t begin, int64_t end, void *env) {
  (void)env;
  if (begin <= 700 && 700 < end) {
    hd_set_error("seven hundred");
    return 3;
  }
  return 0;
}

static int32_t nested(int64_t begin, int64_t end, void *env) {
  (void)begin, (void)end;
  return hd_parallel_for(mark, env, EXTENT);
}

static double stress_seconds;

static void *stress(void *argument) {
  atomic_int marks[EXTENT];
  const int64_t until = hd_now_ns() + (int64_t)(stress_seconds * 1e9);
  (void)argument;
  for (int64_t round = 0; hd_now_ns() < until; ++round) {
    const int64_t extent = round % EXTENT + 1;
    for (int i = 0; i < EXTENT; ++i) atomic_init(&marks[i], 0);
    if (hd_parallel_for(mark, marks, extent) != 0) exit(3);
    for (int64_t i = 0; i < EXTENT; ++i) {
      if (atomic_load_explicit(&marks[i], memory_order_relaxed) != (i < extent)) exit(4);
    }
    if (hd_parallel_for(fail_late, NULL, EXTENT) != 3) exit(5);
    if (round % 16 == 0 && hd_parallel_for(nested, marks, 4) != 0) exit(6);
  }
  return NULL;
}

int main(int argc, char **argv) {
  if (argc > 1 && hd_set_num_threads(atoi(argv[1])) != 0) return 2;
  stress_seconds = argc > 2 ? atof(argv[2]) : 0.2;
  hd_pool_hot_begin();
  int64_t best = INT64_MAX;
  for (int batch = 0; batch < 50; ++batch) {
    const int64_t start = hd_now_ns();
    for (int i = 0; i < 200; ++i) hd_parallel_for(empty, NULL, 2 * hd_num_threads());
    const int64_t took = (hd_now_ns() - start) / 200;
    if (took < best) best = took;
  }
  hd_pool_hot_end();
  printf("%d threads: fork-join %lld ns\n", hd_num_threads(), (long long)best);
  pthread_t threads[3];
  for (int i = 0; i < 3; ++i) pthread_create(&threads[i], NULL, stress, NULL);
  for (int i = 0; i < 3; ++i) pthread_join(threads[i], NULL);
  puts("stress passed");
  return 0;
}
