// result = epilogue(signal · matrixᵀ): the product behind feedback, modulated inputs and layers.

#pragma once

#include "cpu/ops/tensors.h"

namespace fastalign {

struct ProjectionJob {
  Tensor signal;   // (rows, classes)
  Tensor matrix;   // (columns, classes)
  Tensor product;  // (rows, columns) in any shape, contiguous: one that the epilogue writes; its operand may lie there
  Epilogue epilogue;
};

// Runs jobs one after the other, or together where the own kernel does them all.
void run_projections(const std::vector<ProjectionJob>& jobs);

}  // namespace fastalign
