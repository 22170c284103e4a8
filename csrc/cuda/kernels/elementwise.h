// result = finish(values) on CUDA, element by element: bound by bytes.

#pragma once

#include "cuda/kernels/result_epilogue.h"
#include "cuda/ops/device.h"
#include "cuda/ops/view.h"

namespace fastalign::cuda {

// Values of the shape (rows, channels, height, width) of the epilogue's operand and result, of any strides.
void elementwise(Device& device, const View& values, const ResultEpilogue& epilogue);

}  // namespace fastalign::cuda
