/* SPDX-License-Identifier: Apache-2.0 */
/* The contract between generated code and the C runtime that is linked beside it.
 *
 * A model library is one generated object plus the objects of this directory. The generated object
 * defines one variable, `heddle_model`; everything the runtime knows about the model it learns from
 * there. Generated code in turn calls the few services at the end of this file.
 */
#ifndef HEDDLE_ABI_H_
#define HEDDLE_ABI_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised whenever a structure below changes; a library with another number is not loaded. */
#define HEDDLE_ABI_VERSION 4u

/* One input or output. */
typedef struct hd_arg_desc {
  const char *name;
  uint8_t code;        /* DLPack type code: 0 int, 1 uint, 2 float, 4 bfloat, 6 bool */
  uint8_t bits;        /* 8 for bool */
  uint16_t lanes;      /* 1 */
  int32_t ndim;
  const int64_t *dims; /* inputs: >= 0 is a constant, -1 - k is symbol k; outputs: >= 0 is a
                        * constant, any negative value is computed by `output_dims`.
                        * May be NULL when ndim is 0. */
  int32_t memory;      /* inputs: nonzero if main writes to its memory, which then overlaps no other
                        * input; outputs: 1 + the input that it lies in, or 0 */
} hd_arg_desc;

/* An input that is a value of an algebraic data type, as flat arrays: children before parents. */
typedef struct hd_data_desc {
  int32_t tags;             /* the input that holds the constructor of each node, int64 (n) */
  int32_t children;         /* the input that holds the nodes below each node, int64 (n, most) */
  int32_t num_constructors;
  const int64_t *arity;     /* of each constructor: how many nodes are below one of its nodes */
} hd_data_desc;

struct hd_profile;

/* What one call hands to generated code. */
typedef struct hd_context {
  void *const *inputs;        /* data pointers with byte_offset applied; NULL if empty */
  void *const *outputs;       /* likewise */
  int64_t *symbols;           /* value of symbol k; main writes the late ones, behind the others */
  uint8_t *arena;             /* arena_size(symbols) bytes, aligned to arena_alignment */
  const uint8_t *constants;   /* constants_size bytes, 64-byte aligned */
  struct hd_profile *profile; /* NULL unless profiling */
} hd_context;

/* The model. Generated code defines `const hd_model heddle_model`; linking makes it hidden, so that
 * a library never takes the model of another one that was loaded globally before it.
 * Pointers to arrays may be NULL when the count is 0. */
typedef struct hd_model {
  uint32_t abi_version; /* HEDDLE_ABI_VERSION */
  const char *name;
  int32_t num_inputs, num_outputs, num_symbols;
  int32_t num_late_symbols; /* dimensions that are computed by main */
  int32_t num_kernels;
  const hd_arg_desc *inputs, *outputs;
  const char *const *symbol_names; /* those of the late ones follow */
  const int64_t *symbol_min, *symbol_max; /* legal range of each symbol, both ends included */
  const char *const *kernel_names;
  int64_t constants_size;
  int64_t arena_alignment; /* a power of two, 64 or more */
  /* Bytes; negative, -1 - k, when symbol k does not have the value that the others ask for. */
  int64_t (*arena_size)(const int64_t *symbols);
  /* Writes the dimensions of all outputs, one after another: the largest that they may have where
   * they depend on late symbols. */
  void (*output_dims)(const int64_t *symbols, int64_t *dims);
  /* Likewise, after main, the dimensions that they have; NULL without late symbols. */
  void (*final_dims)(const int64_t *symbols, int64_t *dims);
  /* Returns 0, or nonzero after hd_set_error. Must be re-entrant. */
  int32_t (*main)(const hd_context *ctx);
  const char *metadata_json;
  int32_t num_data; /* inputs that are values of data types */
  const hd_data_desc *data;
} hd_model;

#if defined(__GNUC__) || defined(__clang__)
__attribute__((visibility("hidden"))) /* heddle_get_model() is how others see it */
#endif
extern const hd_model heddle_model;

/* The constants, when they are embedded in the library; absent otherwise (weak reference), and then
 * the caller hands them over with heddle_set_constants. */
extern const uint8_t heddle_constants[];

/* ---- services that generated code calls ------------------------------------------------------ */

/* Runs body over [0, extent) in disjoint ranges on the threads of the pool; the caller takes part.
 * A nested call, and a call while another thread uses the pool, runs serially in the caller.
 * Returns 0, or the first nonzero status of a body (the ranges not yet begun are then skipped). */
int32_t hd_parallel_for(int32_t (*body)(int64_t begin, int64_t end, void *env), void *env,
                        int64_t extent);

/* How many threads hd_parallel_for may use, the caller included. */
int32_t hd_num_threads(void);

/* Brackets one run of kernel number `kernel`; does nothing when profile is NULL. Calls do not nest
 * and come from the thread that runs `main`. */
void hd_profile_begin(struct hd_profile *profile, int32_t kernel);
void hd_profile_end(struct hd_profile *profile, int32_t kernel);

/* Sets the calling thread's error message (printf style, cut at 4 KiB). */
#if defined(__GNUC__) || defined(__clang__)
__attribute__((format(printf, 1, 2)))
#endif
void hd_set_error(const char *format, ...);

/* Asks the operating system for tile registers (AMX). Returns 0, or nonzero after hd_set_error. */
int32_t hd_use_tiles(void);

/* Aligned memory (64 bytes or more; huge pages advised for 2 MiB and more). hd_alloc returns NULL
 * and sets the error when there is no memory; hd_free accepts NULL. */
void *hd_alloc(int64_t size, int64_t alignment);
void hd_free(void *pointer);

#ifdef __cplusplus
}
#endif
#endif /* HEDDLE_ABI_H_ */
