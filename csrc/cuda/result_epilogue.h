// The epilogue of a kernel, as its launcher fills it in; cuda/epilogue.cuh carries it out.

#pragma once

#include "activation.h"
#include "cuda/operations.h"
#include "epilogue.h"

namespace fastalign::cuda {

// Of a result (rows, columns), contiguous, whose columns are the places of a map: columns = channels · height · width,
// a dense layer's of height and width 1. All tensors are of the kernel's dtype. Strides count elements.
struct ResultEpilogue {
  Finish finish{};
  Activation activation{};
  Dropout dropout{};
  const int64_t* seed{};  // on the device: the dropout's key
  double scale{1};
  const void* operand{};         // (rows, channels, height, width)
  int64_t operand_strides[4]{};  //
  const void* bias{};            // (columns)
  int64_t bias_stride{};
  void* preactivation{};  // v + bias, (rows, columns), contiguous
  void* result{};         // (rows, columns), contiguous
  int64_t rows{}, columns{}, height{1}, width{1};
};

}  // namespace fastalign::cuda
