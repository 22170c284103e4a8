// The arithmetic of a product and the matrices that it multiplies, as a launcher describes them; cuda/device/load.cuh
// and cuda/device/arithmetic.cuh carry it out.

#pragma once

#include <cstdint>

#include "cuda/ops/view.h"

namespace fastalign::cuda {

enum class Arithmetic { float64, float32, tf32, bfloat16, float16 };

// What a product of two matrices of a dtype is computed in.
Arithmetic arithmetic_of(Dtype dtype, bool tf32);

// Along which of its dimensions a matrix, and so its tile in shared memory, is contiguous.
enum class Order { along_sum, along_result };

// A matrix (rows, sums): its rows are rows or columns of the result, its columns are summed over.
struct Operand {
  const void* data{};
  int64_t rows{}, sums{};
  int64_t row_stride{}, sum_stride{};
  bool vectors{};  // may be read 16 bytes at a time, along its order
};

// The order in which a matrix (rows, sums) is read the fastest.
Order order_of(const View& matrix);

// A matrix (rows, sums) of any strides, to be read in an order.
Operand operand_of(const View& matrix, Order order);

}  // namespace fastalign::cuda
