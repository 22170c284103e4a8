// Which kernel computes a matrix product with an epilogue: the rule, written down.

#pragma once

#include <cstdint>

#include "cuda/ops/device.h"

namespace fastalign::cuda {

enum class Method {
  projection,  // projection.h: sums of few terms
  fused,       // the tiled kernel of product.h
  library,     // the library's product, and the epilogue in a pass of its own over the result
};

// Whether the library is to compute a result (rows, columns) of sums of `terms` products each, where only a tiled
// kernel of our own would do too.
bool prefers_library(const Device& device, int64_t rows, int64_t columns, int64_t terms);

// Of a result that may be projected.
Method choose(const Device& device, Dtype dtype, int64_t rows, int64_t columns, int64_t terms);

}  // namespace fastalign::cuda
