// Matrix products on CUDA with an epilogue: the forward pass, the linear difference, a feedback term of a large signal.

#pragma once

#include "cuda/kernels/result_epilogue.h"
#include "cuda/ops/device.h"
#include "cuda/ops/view.h"

namespace fastalign::cuda {

// result = finish(left · rightᵀ): left (rows, sums), right (columns, sums), of any strides, by the method that choice.h
// says.
void product(Device& device, const View& left, const View& right, const ResultEpilogue& epilogue);

// The same by the tiled kernel: fast where each matrix is contiguous along one of its dimensions, the left one along
// the sum, and 16 bytes aligned.
void fused_product(Device& device, const View& left, const View& right, const ResultEpilogue& epilogue);

}  // namespace fastalign::cuda
