// result = finish(signal · matrixᵀ) on CUDA where a sum has few terms: the bytes of operand and result bound it.

#pragma once

#include <vector>

#include "cuda/kernels/result_epilogue.h"
#include "cuda/ops/device.h"
#include "cuda/ops/view.h"

namespace fastalign::cuda {

struct Projection {
  View signal{};  // (rows, classes)
  View matrix{};  // (columns, classes)
  ResultEpilogue epilogue{};
};

// Runs projections of one dtype in one launch. Sums are taken by FMA, class by class.
void project(Device& device, const std::vector<Projection>& projections);

}  // namespace fastalign::cuda
