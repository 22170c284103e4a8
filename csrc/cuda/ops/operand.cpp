#include "cuda/ops/operand.h"

namespace fastalign::cuda {

Arithmetic arithmetic_of(Dtype dtype, bool tf32) {
  switch (dtype) {
    case Dtype::float64:
      return Arithmetic::float64;
    case Dtype::float32:
      return tf32 ? Arithmetic::tf32 : Arithmetic::float32;
    case Dtype::bfloat16:
      return Arithmetic::bfloat16;
    case Dtype::float16:
      break;
  }
  return Arithmetic::float16;
}

Order order_of(const View& matrix) {
  return matrix.strides[1] != 1 && matrix.strides[0] == 1 ? Order::along_result : Order::along_sum;
}

Operand operand_of(const View& matrix, Order order) {
  Operand operand{matrix.data, matrix.sizes[0], matrix.sizes[1], matrix.strides[0], matrix.strides[1]};
  const bool along_sum = order == Order::along_sum;
  int64_t& line_stride = along_sum ? operand.row_stride : operand.sum_stride;
  if ((along_sum ? operand.rows : operand.sums) <= 1) line_stride = 0;
  operand.vectors = (along_sum ? operand.sum_stride : operand.row_stride) == 1 &&
                    reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 &&
                    line_stride * bytes_of(matrix.dtype) % 16 == 0;
  return operand;
}

}  // namespace fastalign::cuda
