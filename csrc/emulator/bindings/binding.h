// How tensors come from Python, and how a file adds operations to the module. Tensors come as plain numbers, so that
// bfloat16, which NumPy lacks, comes too.

#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/ops/operations.h"
#include "cuda/ops/view.h"
#include "emulator/device.h"

namespace fastalign::emulator {

// Address, dtype, sizes, and strides in elements.
using Array = std::tuple<uintptr_t, std::string, std::vector<int64_t>, std::vector<int64_t>>;

cuda::View view(const Array& array);

// None where there is no array, or an empty one in place of a result that is not wanted.
cuda::View view(const std::optional<Array>& array);
cuda::View view_unless_empty(const Array& array);

// Of int64, which is no dtype of the kernels; float64 has its size.
cuda::View view_of_integers(Array array);

// Dropout of a probability and a seed, which the operation reads.
cuda::Activity activity(EmulatedDevice& device, int activation, double dropout, const std::optional<Array>& seed);

// A variable of this type adds what it defines to the module.
struct Binding {
  explicit Binding(void (*define)(pybind11::module_& module));
};

}  // namespace fastalign::emulator
