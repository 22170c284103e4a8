#define PY_SSIZE_T_CLEAN
#include "cuda/torch/precision.h"

#include <Python.h>

#include <stdexcept>

namespace fastalign {

namespace {

PyObject* asked = nullptr;

// Whether TF32 is allowed to an operation; negative where an exception was raised.
int ask(const char* operation) {
  PyObject* answer = PyObject_CallFunction(asked, "s", operation);
  const int truth = answer == nullptr ? -1 : PyObject_IsTrue(answer);
  Py_XDECREF(answer);
  return truth;
}

}  // namespace

void ask_for_precision(PyObject* function) {
  PyObject* before = asked;
  asked = function;
  Py_XINCREF(asked);
  Py_XDECREF(before);
}

Tf32 allowed_tf32(Products products) {
  if (asked == nullptr || products == Products::none) return {};
  const PyGILState_STATE lock = PyGILState_Ensure();
  const int of_matrices = ask("matmul");
  const int of_convolutions = products == Products::convolutions && of_matrices >= 0 ? ask("conv") : 0;
  const bool answered = of_matrices >= 0 && of_convolutions >= 0;
  if (!answered) PyErr_Clear();
  PyGILState_Release(lock);
  if (!answered) throw std::runtime_error("fastalign: torch does not tell the precision of float32 products");
  return {of_matrices > 0, of_convolutions > 0};
}

}  // namespace fastalign
