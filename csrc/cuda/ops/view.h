// A tensor as the CUDA operations see it: without torch, so that the emulator runs the very same code.

#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace fastalign::cuda {

inline int64_t bytes_of(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }

// Strides count elements. `data` is on the device; only the tensors that an operation calls results are written.
struct View {
  void* data{};
  Dtype dtype{};
  int dimensions{};
  int64_t sizes[4]{};
  int64_t strides[4]{};

  explicit operator bool() const { return dimensions > 0; }  // an optional tensor is there
};

}  // namespace fastalign::cuda
