// How tensors come from Python: as plain numbers, so that bfloat16, which NumPy lacks, comes too.

#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "dtype.h"
#include "emulator/grid.h"
#include "emulator/memory.h"

namespace fastalign::emulator {

// Address, dtype, sizes, and strides in elements.
using Array = std::tuple<uintptr_t, std::string, std::vector<int64_t>, std::vector<int64_t>>;

inline void* data(const Array& array) { return reinterpret_cast<void*>(std::get<0>(array)); }
inline int64_t size(const Array& array, size_t dimension) { return std::get<2>(array).at(dimension); }
inline int64_t stride(const Array& array, size_t dimension) { return std::get<3>(array).at(dimension); }
inline size_t dimensions(const Array& array) { return std::get<2>(array).size(); }

inline Dtype dtype(const Array& array) {
  const std::string& name = std::get<1>(array);
  if (name == "float64") return Dtype::float64;
  if (name == "float32") return Dtype::float32;
  if (name == "bfloat16") return Dtype::bfloat16;
  if (name == "float16") return Dtype::float16;
  throw std::invalid_argument("dtype: expected float64, float32, bfloat16 or float16, got " + name);
}

// The memory from an array's first element to its last one.
inline Buffer buffer(const std::string& name, const Array& array, bool writable) {
  const Dtype type = dtype(array);
  const size_t item = type == Dtype::float64 ? 8 : type == Dtype::float32 ? 4 : 2;
  int64_t last = 0;
  for (size_t i = 0; i < dimensions(array); ++i) {
    if (size(array, i) == 0) return {name, {data(array), 0}, writable};
    last += (size(array, i) - 1) * stride(array, i);
  }
  return {name, {data(array), static_cast<size_t>(last + 1) * item}, writable};
}

// Runs a launcher of kernels on an order of its threads; raises RuntimeError where a kernel does what it must not.
template <typename Launcher>
void emulate(uint64_t schedule, std::vector<Buffer> buffers, const Launcher& launcher) {
  start(schedule);
  set_buffers(std::move(buffers));
  launcher();
  throw_fault();
}

}  // namespace fastalign::emulator
