/* SPDX-License-Identifier: Apache-2.0 */
/* Measures what one core can do at most. Two kinds of run, each printing one number:
 *   peak fma SECONDS        GFLOP/s of float32 multiply-add on registers
 *   peak read SECONDS MIB   GB/s of reading a buffer of MIB MiB again and again
 *   peak copy SECONDS MIB   GB/s of copying one half to the other (bytes read plus written)
 * For several cores run several at once. Compiled with -O3 -march=native; -DBYTES=32 asks for shorter
 * vectors than the widest. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Vectors by the compiler's extension: the widest the target has, on any architecture. */
#if defined(BYTES)
#elif defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float vec __attribute__((vector_size(BYTES)));
#define LANES ((int)(BYTES / sizeof(float)))
/* As many chains as hide the latency (4-5 cycles, two units) and still fit the registers. */
#define CHAINS 12

#if BYTES == 64 && defined(__AVX512F__)
#include <immintrin.h>
#define FMA(a, b, c) ((vec)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#elif BYTES == 32 && defined(__FMA__)
#include <immintrin.h>
#define FMA(a, b, c) ((vec)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#else
#define FMA(a, b, c) ((a) * (b) + (c)) /* contracted where the target has it */
#endif

/* Keep a value in a register and the instruction that made it an instruction of its own. */
#if defined(__AVX512F__)
#define KEEP(a) __asm__ volatile("" : "+v"(a))
#elif defined(__x86_64__)
#define KEEP(a) __asm__ volatile("" : "+x"(a))
#elif defined(__aarch64__)
#define KEEP(a) __asm__ volatile("" : "+w"(a))
#else
#define KEEP(a) (void)(a)
#endif

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static vec splat(float x) {
  vec v;
  for (int i = 0; i < LANES; ++i) v[i] = x;
  return v;
}

static volatile float sink;

static double fma_once(void) {
  enum { STEPS = 1 << 20 };
  vec acc[CHAINS], scale = splat(0.999f), add = splat(1e-3f);
#pragma GCC unroll 16 /* every index a constant, or the array stays in memory */
  for (int i = 0; i < CHAINS; ++i) acc[i] = splat((float)i);
  double begin = now();
  for (int step = 0; step < STEPS; ++step) {
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; ++i) {
      acc[i] = FMA(acc[i], scale, add);
      KEEP(acc[i]);
    }
  }
  double took = now() - begin;
#pragma GCC unroll 16
  for (int i = 0; i < CHAINS; ++i) sink = acc[i][0];
  return 2.0 * LANES * CHAINS * STEPS / took * 1e-9;
}

static double read_once(const float *data, size_t bytes) {
  enum { STREAMS = 8 };
  const vec *at = (const vec *)data;
  size_t count = bytes / BYTES / STREAMS * STREAMS;
  size_t repeats = ((size_t)256 << 20) / bytes + 1;
  vec sum[STREAMS];
  memset(sum, 0, sizeof sum);
  double begin = now();
  for (size_t r = 0; r < repeats; ++r) {
    for (size_t i = 0; i < count; i += STREAMS) {
#pragma GCC unroll 8
      for (int s = 0; s < STREAMS; ++s) sum[s] += at[i + (size_t)s];
    }
    __asm__ volatile("" ::: "memory");
  }
  double took = now() - begin;
  for (int s = 0; s < STREAMS; ++s) sink = sum[s][0];
  return (double)(count * BYTES * repeats) / took * 1e-9;
}

static double copy_once(float *data, size_t bytes) {
  size_t half = bytes / 2, repeats = ((size_t)256 << 20) / bytes + 1;
  double begin = now();
  for (size_t r = 0; r < repeats; ++r) {
    memcpy((char *)data + half, data, half);
    __asm__ volatile("" ::: "memory");
  }
  return 2.0 * (double)(half * repeats) / (now() - begin) * 1e-9;
}

int main(int argc, char **argv) {
  const char *kind = argc > 1 ? argv[1] : "fma";
  double seconds = argc > 2 ? atof(argv[2]) : 0.5;
  size_t bytes = (size_t)(argc > 3 ? atof(argv[3]) * 1048576.0 : 256e6) / 4096 * 4096;
  float *data = NULL;
  if (strcmp(kind, "fma") != 0) {
    data = aligned_alloc(4096, bytes);
    if (!data) return fprintf(stderr, "peak: no memory for %zu bytes\n", bytes), 1;
    for (size_t i = 0; i < bytes / sizeof(float); ++i) data[i] = (float)(i & 1023);
  }
  double best = 0.0, end = now() + seconds;
  do {
    double rate = strcmp(kind, "fma") == 0    ? fma_once()
                  : strcmp(kind, "copy") == 0 ? copy_once(data, bytes)
                                              : read_once(data, bytes);
    if (rate > best) best = rate;
  } while (now() < end);
  printf("%.2f\n", best);
  free(data);
  return 0;
}
