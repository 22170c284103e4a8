#define PY_SSIZE_T_CLEAN
#include "cuda/torch/precision.h"

#include <Python.h>

#include <stdexcept>

namespace fastalign {

namespace {

PyObject* asked = nullptr;

}  // namespace

void ask_for_precision(PyObject* function) {
  PyObject* before = asked;
  asked = function;
  Py_XINCREF(asked);
  Py_XDECREF(before);
}

bool allows_tf32(Products products) {
  if (asked == nullptr) return false;
  const PyGILState_STATE lock = PyGILState_Ensure();
  PyObject* answer = PyObject_CallFunction(asked, "s", products == Products::matrices ? "matmul" : "conv");
  const int truth = answer == nullptr ? -1 : PyObject_IsTrue(answer);
  Py_XDECREF(answer);
  if (truth < 0) PyErr_Clear();
  PyGILState_Release(lock);
  if (truth < 0) throw std::runtime_error("fastalign: torch does not tell the precision of float32 products");
  return truth != 0;
}

}  // namespace fastalign
