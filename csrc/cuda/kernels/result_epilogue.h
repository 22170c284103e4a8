// The epilogue of a kernel, as its launcher fills it in; cuda/device/epilogue.cuh carries it out.

#pragma once

#include "common/activation.h"
#include "common/epilogue.h"
#include "cuda/ops/operations.h"

namespace fastalign::cuda {

// Of a result (rows, columns), contiguous, whose columns are the places of a map: columns = channels · height · width,
// a dense layer's of height and width 1. All tensors are of the kernel's dtype. Strides count elements.
struct ResultEpilogue {
  Finish finish{};
  Activation activation{};
  Dropout dropout{};
  const int64_t* seed{};  // on the device: the dropout's key
  double scale{1};
  const void* operand{};  // (rows, channels, height, width)
  int64_t operand_strides[4]{};
  const void* bias{};  // (columns)
  int64_t bias_stride{};
  void* preactivation{};  // v + bias, (rows, columns), contiguous
  void* result{};         // (rows, columns), contiguous
  int64_t rows{}, columns{}, height{1}, width{1};
};

// Of a result of at most four dimensions.
inline ResultEpilogue epilogue_of(Finish finish, const Activity& activity, const View& result) {
  const auto size = [&](int dimension) { return dimension < result.dimensions ? result.sizes[dimension] : 1; };
  return {
      .finish = finish,
      .activation = activity.activation,
      .dropout = activity.dropout,
      .seed = static_cast<const int64_t*>(activity.seed.data),
      .result = result.data,
      .rows = size(0),
      .columns = size(1) * size(2) * size(3),
      .height = size(2),
      .width = size(3),
  };
}

// The same with an operand, which has the result's shape.
inline ResultEpilogue epilogue_of(Finish finish, const Activity& activity, const View& operand, const View& result) {
  ResultEpilogue epilogue = epilogue_of(finish, activity, result);
  epilogue.operand = operand.data;
  for (int i = 0; i < 4; ++i) epilogue.operand_strides[i] = operand.strides[i];
  return epilogue;
}

}  // namespace fastalign::cuda
