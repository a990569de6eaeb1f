/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of a model from Python in well under a microsecond: numpy arrays in, `Tensor`s out.
 *
 * `make_caller(plan)` gives a function that takes the tuple of a call's arguments. It returns
 *   NotImplemented  for whatever is not an array that lies there as the model wants it: the caller
 *                   then takes the general way, which converts and explains
 *   Tensor or tuple the results
 * and raises the error that the model library tells.
 *
 * Compiled by the machine's C compiler when first needed, without Python's or numpy's headers: all
 * that is used of them is their stable binary interface, declared below. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "heddle_dlpack.h"

#define EXPORT __attribute__((visibility("default")))

/* ---- Python ---------------------------------------------------------------------------------- */

typedef struct _object PyObject;
typedef ptrdiff_t Py_ssize_t;
typedef struct {
  const char *name;
  PyObject *(*call)(PyObject *, PyObject *);
  int flags;
  const char *doc;
} PyMethodDef;
#define METH_O 0x0008

extern PyObject _Py_NotImplementedStruct, *PyExc_MemoryError;
void Py_IncRef(PyObject *);
void Py_DecRef(PyObject *);
PyObject *PyCFunction_NewEx(PyMethodDef *, PyObject *self, PyObject *module);
PyObject *PyCapsule_New(void *, const char *name, void (*destructor)(PyObject *));
void *PyCapsule_GetPointer(PyObject *, const char *name);
PyObject *PyTuple_New(Py_ssize_t);
Py_ssize_t PyTuple_Size(PyObject *);
PyObject *PyTuple_GetItem(PyObject *, Py_ssize_t); /* borrowed */
int PyTuple_SetItem(PyObject *, Py_ssize_t, PyObject *);
PyObject *PyLong_FromLongLong(long long);
long long PyLong_AsLongLong(PyObject *);
PyObject *PyObject_GetAttr(PyObject *, PyObject *name);
int PyObject_SetAttr(PyObject *, PyObject *name, PyObject *);
PyObject *PyObject_CallObject(PyObject *, PyObject *arguments);
PyObject *PyType_GenericAlloc(PyObject *type, Py_ssize_t);
PyObject *PyErr_Occurred(void);
void PyErr_SetString(PyObject *type, const char *);
PyObject *PyErr_NoMemory(void);
void *PyEval_SaveThread(void);
void PyEval_RestoreThread(void *);

/* What every object begins with, in builds with a global interpreter lock; others do not get here. */
struct _object {
  Py_ssize_t references;
  PyObject *type;
};

/* ---- numpy ----------------------------------------------------------------------------------- */

typedef struct { /* PyArrayObject, the same in numpy 1 and 2 */
  PyObject base;
  char *data;
  int ndim;
  intptr_t *shape, *strides;
  PyObject *owner, *dtype;
  int flags;
} Array;

enum { CONTIGUOUS = 0x1, ALIGNED = 0x100, WRITEABLE = 0x400 };
enum { ARRAY_TYPE = 2, NEW_FROM_DESCRIPTION = 94, SET_BASE_OBJECT = 282 }; /* in numpy's C API */

typedef PyObject *(*new_array)(PyObject *type, PyObject *dtype, int ndim, const intptr_t *shape,
                               const intptr_t *strides, void *data, int flags, PyObject *);
typedef int (*set_base)(PyObject *array, PyObject *owner);

/* ---- the plan of a model ----------------------------------------------------------------------- */

typedef struct {
  PyObject *dtype; /* borrowed from `kept` */
  DLDataType code;
  int ndim;
  int memory; /* of an input whether it is written to, of an output 1 + the input it lies in, or 0 */
} Argument;

typedef int32_t (*run_model)(const DLTensor *const *, int32_t, DLTensor *const *, int32_t);
typedef int32_t (*infer_shapes)(const DLTensor *const *, int32_t, int64_t *dims, int32_t);
typedef const char *(*last_error)(void);

typedef struct {
  run_model run;
  infer_shapes infer; /* NULL: the outputs always have the dimensions `dims` */
  last_error error;
  void **numpy;
  PyObject *kept; /* the tuple that holds everything borrowed */
  PyObject *tensor_type, *array_name, *error_type, *empty;
  int64_t pooled_from; /* outputs of this many bytes come from `empty` */
  int32_t num_inputs, num_outputs, num_dims;
  Argument *arguments; /* inputs, then outputs */
  int64_t *dims;       /* of all outputs, one after the other */
} Plan;

static const char plan_name[] = "heddle.plan", memory_name[] = "heddle.memory";

static void free_plan(PyObject *capsule) {
  Plan *plan = PyCapsule_GetPointer(capsule, plan_name);
  free(plan->arguments);
  free(plan->dims);
  if (plan->kept) Py_DecRef(plan->kept);
  free(plan);
}

static void free_memory(PyObject *capsule) { free(PyCapsule_GetPointer(capsule, memory_name)); }

/* ---- a call ------------------------------------------------------------------------------------ */

static PyObject *pooled(const Plan *plan, const Argument *output, const int64_t *dims,
                        int64_t bytes) {
  PyObject *arguments = PyTuple_New(3), *shape = PyTuple_New(output->ndim), *result = NULL;
  int failed = !arguments || !shape;
  for (int axis = 0; !failed && axis < output->ndim; ++axis) {
    failed = PyTuple_SetItem(shape, axis, PyLong_FromLongLong(dims[axis])) != 0;
  }
  if (!failed) {
    Py_IncRef(shape);
    Py_IncRef(output->dtype);
    PyTuple_SetItem(arguments, 0, shape);
    PyTuple_SetItem(arguments, 1, output->dtype);
    PyTuple_SetItem(arguments, 2, PyLong_FromLongLong(bytes));
    result = PyObject_CallObject(plan->empty, arguments);
  }
  if (shape) Py_DecRef(shape);
  if (arguments) Py_DecRef(arguments);
  return result;
}

/* A new array that starts at a multiple of 64 bytes; NULL with an error set. */
static PyObject *allocate(const Plan *plan, const Argument *output, const int64_t *dims) {
  int64_t bytes = output->code.bits / 8;
  for (int axis = 0; axis < output->ndim; ++axis) {
    if (__builtin_mul_overflow(bytes, dims[axis], &bytes)) return PyErr_NoMemory();
  }
  if (bytes >= plan->pooled_from) return pooled(plan, output, dims, bytes);
  const size_t size = ((size_t)bytes + 127) & ~(size_t)63;
  void *memory = aligned_alloc(64, size);
  if (!memory) return PyErr_NoMemory();
  PyObject *owner = PyCapsule_New(memory, memory_name, free_memory);
  if (!owner) {
    free(memory);
    return NULL;
  }
  Py_IncRef(output->dtype); /* the next call takes one */
  PyObject *array = ((new_array)plan->numpy[NEW_FROM_DESCRIPTION])(
      plan->numpy[ARRAY_TYPE], output->dtype, output->ndim, (const intptr_t *)dims, NULL, memory,
      CONTIGUOUS | ALIGNED | WRITEABLE, NULL);
  if (!array) {
    Py_DecRef(owner);
    return NULL;
  }
  if (((set_base)plan->numpy[SET_BASE_OBJECT])(array, owner) != 0) { /* it has taken the owner */
    Py_DecRef(array);
    return NULL;
  }
  return array;
}

static PyObject *wrap(const Plan *plan, PyObject *array) {
  PyObject *tensor = PyType_GenericAlloc(plan->tensor_type, 0);
  if (!tensor) return NULL;
  if (PyObject_SetAttr(tensor, plan->array_name, array) != 0) {
    Py_DecRef(tensor);
    return NULL;
  }
  return tensor;
}

static void describe(DLTensor *tensor, const Argument *argument, const Array *array) {
  memset(tensor, 0, sizeof *tensor);
  tensor->data = array->data;
  tensor->device.device_type = kDLCPU;
  tensor->ndim = array->ndim;
  tensor->dtype = argument->code;
  tensor->shape = (int64_t *)array->shape;
}

/* Whether an argument is an array that can be used where it is; `held` owns it then. */
static int take(const Plan *plan, const Argument *argument, PyObject *value, PyObject **held) {
  if (value->type == plan->tensor_type) {
    *held = PyObject_GetAttr(value, plan->array_name);
    if (!*held) return 0;
  } else {
    Py_IncRef(value);
    *held = value;
  }
  const Array *array = (const Array *)*held;
  const int wanted = CONTIGUOUS | ALIGNED | (argument->memory ? WRITEABLE : 0);
  return array->base.type == plan->numpy[ARRAY_TYPE] && array->dtype == argument->dtype &&
         array->ndim == argument->ndim && (array->flags & wanted) == wanted;
}

static PyObject *results_of(const Plan *plan, PyObject **arrays) {
  if (plan->num_outputs == 1) return wrap(plan, arrays[0]);
  PyObject *results = PyTuple_New(plan->num_outputs);
  for (int32_t i = 0; results && i < plan->num_outputs; ++i) {
    PyObject *tensor = wrap(plan, arrays[i]);
    if (!tensor || PyTuple_SetItem(results, i, tensor) != 0) {
      Py_DecRef(results);
      return NULL;
    }
  }
  return results;
}

/* Allocates the outputs; -1 with an error set. */
static int allocate_all(const Plan *plan, const DLTensor *const *inputs, PyObject **held,
                        DLTensor *tensors, int32_t *taken) {
  int64_t inferred[plan->num_dims + 1];
  const int64_t *dims = plan->dims;
  if (plan->infer) {
    if (plan->infer(inputs, plan->num_inputs, inferred, plan->num_dims) != 0) {
      PyErr_SetString(plan->error_type, plan->error());
      return -1;
    }
    dims = inferred;
  }
  for (; *taken < plan->num_inputs + plan->num_outputs; ++*taken) {
    const Argument *output = &plan->arguments[*taken];
    if (output->memory) {
      held[*taken] = held[output->memory - 1];
      Py_IncRef(held[*taken]);
    } else {
      held[*taken] = allocate(plan, output, dims);
    }
    if (!held[*taken]) return -1;
    describe(&tensors[*taken], output, (const Array *)held[*taken]);
    dims += output->ndim;
  }
  return 0;
}

static PyObject *call(PyObject *self, PyObject *values) {
  const Plan *plan = PyCapsule_GetPointer(self, plan_name);
  const int32_t inputs = plan->num_inputs, outputs = plan->num_outputs, total = inputs + outputs;
  PyObject *result = NULL, *held[total];
  DLTensor tensors[total], *pointers[total];
  const DLTensor *const *given = (const DLTensor *const *)pointers;
  int32_t taken = 0;
  for (int32_t i = 0; i < total; ++i) pointers[i] = &tensors[i];
  for (; taken < inputs; ++taken) {
    held[taken] = NULL;
    const Argument *argument = &plan->arguments[taken];
    if (!take(plan, argument, PyTuple_GetItem(values, taken), &held[taken])) {
      if (!PyErr_Occurred()) {
        result = &_Py_NotImplementedStruct;
        Py_IncRef(result);
      }
      if (held[taken]) ++taken;
      goto done;
    }
    describe(&tensors[taken], argument, (const Array *)held[taken]);
  }
  if (allocate_all(plan, given, held, tensors, &taken) != 0) goto done;
  void *state = PyEval_SaveThread();
  int32_t status = plan->run(given, inputs, pointers + inputs, outputs);
  PyEval_RestoreThread(state);
  if (status != 0) {
    PyErr_SetString(plan->error_type, plan->error());
  } else {
    result = results_of(plan, held + inputs);
  }
done:
  while (taken > 0) Py_DecRef(held[--taken]);
  return result;
}

/* ---- making one -------------------------------------------------------------------------------- */

static void *address(PyObject *number) { return (void *)(intptr_t)PyLong_AsLongLong(number); }

/* From (dtype, code, bits, ndim, memory). */
static void read_argument(Argument *argument, PyObject *from) {
  argument->dtype = PyTuple_GetItem(from, 0);
  argument->code.code = (uint8_t)PyLong_AsLongLong(PyTuple_GetItem(from, 1));
  argument->code.bits = (uint8_t)PyLong_AsLongLong(PyTuple_GetItem(from, 2));
  argument->code.lanes = 1;
  argument->ndim = (int)PyLong_AsLongLong(PyTuple_GetItem(from, 3));
  argument->memory = (int)PyLong_AsLongLong(PyTuple_GetItem(from, 4));
}

static PyMethodDef method = {"call", call, METH_O, NULL};

/* From (numpy's C API, heddle_run, heddle_infer_shapes or 0, heddle_last_error, Tensor, name of its
 * array, UserError, empty, least bytes for it, inputs, outputs, dimensions of all outputs), the
 * functions as addresses. */
EXPORT PyObject *make_caller(PyObject *from) {
  Plan *plan = calloc(1, sizeof *plan);
  if (!plan) return PyErr_NoMemory();
  PyObject *capsule = PyCapsule_New(plan, plan_name, free_plan);
  if (!capsule) {
    free(plan);
    return NULL;
  }
  Py_IncRef(from);
  plan->kept = from;
  plan->numpy = address(PyTuple_GetItem(from, 0));
  plan->run = (run_model)(intptr_t)address(PyTuple_GetItem(from, 1));
  plan->infer = (infer_shapes)(intptr_t)address(PyTuple_GetItem(from, 2));
  plan->error = (last_error)(intptr_t)address(PyTuple_GetItem(from, 3));
  plan->tensor_type = PyTuple_GetItem(from, 4);
  plan->array_name = PyTuple_GetItem(from, 5);
  plan->error_type = PyTuple_GetItem(from, 6);
  plan->empty = PyTuple_GetItem(from, 7);
  plan->pooled_from = PyLong_AsLongLong(PyTuple_GetItem(from, 8));
  PyObject *inputs = PyTuple_GetItem(from, 9), *outputs = PyTuple_GetItem(from, 10);
  PyObject *dims = PyTuple_GetItem(from, 11);
  plan->num_inputs = (int32_t)PyTuple_Size(inputs);
  plan->num_outputs = (int32_t)PyTuple_Size(outputs);
  plan->num_dims = (int32_t)PyTuple_Size(dims);
  plan->arguments = calloc((size_t)(plan->num_inputs + plan->num_outputs), sizeof(Argument));
  plan->dims = calloc((size_t)plan->num_dims + 1, sizeof *plan->dims);
  PyObject *caller = NULL;
  if (!plan->arguments || !plan->dims) {
    PyErr_NoMemory();
  } else {
    Argument *next = plan->arguments;
    for (int32_t i = 0; i < plan->num_inputs; ++i) read_argument(next++, PyTuple_GetItem(inputs, i));
    for (int32_t i = 0; i < plan->num_outputs; ++i) {
      read_argument(next++, PyTuple_GetItem(outputs, i));
    }
    for (int32_t i = 0; i < plan->num_dims; ++i) {
      plan->dims[i] = PyLong_AsLongLong(PyTuple_GetItem(dims, i));
    }
    if (!PyErr_Occurred()) caller = PyCFunction_NewEx(&method, capsule, NULL);
  }
  Py_DecRef(capsule); /* the function holds it */
  return caller;
}
