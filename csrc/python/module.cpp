// The Python module fastalign._C: what the binary holds and uses. The kernels themselves are reached through torch.ops.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <exception>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "python/stream.h"
#ifdef FASTALIGN_CUDA_ARCHITECTURES
#include "cuda/force.h"
#include "cuda/ops/library.h"
#include "cuda/torch/precision.h"
#include "cuda/torch/products.h"
#endif

namespace {

PyObject* raise(const std::exception& error) {
  PyErr_SetString(PyExc_ValueError, error.what());
  return nullptr;
}

PyObject* tuple_of_strings(const std::vector<std::string>& strings) {
  PyObject* tuple = PyTuple_New(static_cast<Py_ssize_t>(strings.size()));
  for (size_t i = 0; tuple != nullptr && i < strings.size(); ++i) {
    PyObject* item = PyUnicode_FromString(strings[i].c_str());
    if (item == nullptr) {
      Py_DECREF(tuple);
      return nullptr;
    }
    PyTuple_SetItem(tuple, static_cast<Py_ssize_t>(i), item);
  }
  return tuple;
}

PyObject* cpu_levels(PyObject*, PyObject*) {
  std::vector<std::string> levels;
  for (const char* const* level = fastalign::cpu_levels(); *level != nullptr; ++level) levels.emplace_back(*level);
  return tuple_of_strings(levels);
}

PyObject* cpu_level(PyObject*, PyObject*) {
  try {
    return PyUnicode_FromString(fastalign::cpu_level());
  } catch (const std::exception& error) {
    return raise(error);
  }
}

PyObject* hold_the_same(PyObject*, PyObject* arguments) {
  PyObject* containers = nullptr;
  PyObject* objects = nullptr;
  if (!PyArg_ParseTuple(arguments, "O!O!", &PyList_Type, &containers, &PyList_Type, &objects)) return nullptr;
  const Py_ssize_t count = PyList_Size(objects);
  Py_ssize_t at = 0;
  const auto is_next = [&](PyObject* value) { return at < count && PyList_GetItem(objects, at++) == value; };
  for (Py_ssize_t i = 0; i < PyList_Size(containers); ++i) {
    PyObject* container = PyList_GetItem(containers, i);
    if (PyDict_Check(container)) {
      PyObject* value = nullptr;
      for (Py_ssize_t place = 0; PyDict_Next(container, &place, nullptr, &value);) {
        if (!is_next(value)) Py_RETURN_FALSE;
      }
    } else if (PyList_Check(container)) {
      for (Py_ssize_t j = 0; j < PyList_Size(container); ++j) {
        if (!is_next(PyList_GetItem(container, j))) Py_RETURN_FALSE;
      }
    } else {
      PyErr_SetString(PyExc_TypeError, "containers: expected dictionaries and lists");
      return nullptr;
    }
  }
  return PyBool_FromLong(at == count);
}

PyObject* stream_source(PyObject*, PyObject*) {
  const char* source = fastalign::cuda_stream_source();
  if (source == nullptr) Py_RETURN_NONE;
  return PyUnicode_FromString(source);
}

#ifdef FASTALIGN_CUDA_ARCHITECTURES

PyObject* cuda_architectures(PyObject*, PyObject*) {
  std::vector<std::string> names(1);
  for (const char* c = FASTALIGN_CUDA_ARCHITECTURES; *c != '\0'; ++c) {
    if (*c == ' ') {
      names.emplace_back();
    } else {
      names.back() += *c;
    }
  }
  return tuple_of_strings(names);
}

PyObject* cuda_versions(PyObject*, PyObject*) {
  const fastalign::CudaVersions versions = fastalign::cuda_versions();
  return Py_BuildValue("(ii)", versions.driver, versions.runtime);
}

PyObject* cuda_force(PyObject*, PyObject*) {
  try {
    const char* name = fastalign::cuda::name_of(fastalign::cuda::force_of_environment());
    if (name == nullptr) Py_RETURN_NONE;
    return PyUnicode_FromString(name);
  } catch (const std::exception& error) {
    return raise(error);
  }
}

PyObject* multiplies_on_cuda(PyObject*, PyObject*) { return PyBool_FromLong(fastalign::multiplies_on_cuda()); }

PyObject* register_cuda(PyObject*, PyObject* arguments) {
  PyObject* usable = nullptr;
  PyObject* allows_tf32 = nullptr;
  if (!PyArg_ParseTuple(arguments, "OO", &usable, &allows_tf32)) return nullptr;
  const Py_ssize_t devices = PySequence_Size(usable);
  if (devices < 0) return nullptr;
  std::vector<bool> flags;
  for (Py_ssize_t i = 0; i < devices; ++i) {
    PyObject* item = PySequence_GetItem(usable, i);
    if (item == nullptr) return nullptr;
    const int truth = PyObject_IsTrue(item);
    Py_DECREF(item);
    if (truth < 0) return nullptr;
    flags.push_back(truth != 0);
  }
  try {
    fastalign::ask_for_precision(allows_tf32);
    fastalign::register_cuda_kernels(flags);
  } catch (const std::exception& error) {
    return raise(error);
  }
  Py_RETURN_NONE;
}

#else

PyObject* cuda_architectures(PyObject*, PyObject*) { return tuple_of_strings({}); }

#endif

PyMethodDef methods[] = {
    {"cpu_levels", cpu_levels, METH_NOARGS, "The CPU levels in this binary, lowest first."},
    {"cpu_level", cpu_level, METH_NOARGS, "The CPU level in use."},
    {"cuda_architectures", cuda_architectures, METH_NOARGS, "The CUDA targets in this binary, as sm_80 or compute_90."},
    {"hold_the_same", hold_the_same, METH_VARARGS,
     "Whether the values of dictionaries and lists, one after the other, are the objects of another list and no more."},
    {"stream_source", stream_source, METH_NOARGS, "The library that tells torch's current CUDA stream, or None."},
#ifdef FASTALIGN_CUDA_ARCHITECTURES
    {"cuda_versions", cuda_versions, METH_NOARGS, "The CUDA versions of the driver (0: none) and of this binary."},
    {"cuda_force", cuda_force, METH_NOARGS, "Who computes plain matrix products (FASTALIGN_FORCE), or None."},
    {"multiplies_on_cuda", multiplies_on_cuda, METH_NOARGS, "Whether torch's own matrix product on CUDA was found."},
    {"register_cuda", register_cuda, METH_VARARGS,
     "Registers the CUDA kernels: which devices run them, and a function that tells whether torch allows TF32 to the "
     "products of a \"matmul\" or a \"conv\"."},
#endif
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT,
                      "fastalign._C",
                      "What the native binary holds and uses.",
                      -1,
                      methods,
                      nullptr,
                      nullptr,
                      nullptr,
                      nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&module); }
