#include "cuda/operand.h"

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
  const bool along_sum = order == Order::along_sum;
  const int64_t line_stride = matrix.strides[along_sum ? 0 : 1];
  const int64_t lines = matrix.sizes[along_sum ? 0 : 1];
  const bool contiguous = matrix.strides[along_sum ? 1 : 0] == 1;
  const bool aligned = reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 &&
                       (lines <= 1 || line_stride * bytes_of(matrix.dtype) % 16 == 0);
  return {matrix.data, matrix.sizes[0], matrix.sizes[1], matrix.strides[0], matrix.strides[1], contiguous && aligned};
}

}  // namespace fastalign::cuda
