#include "cuda/kernels/product.h"

#include "cuda/choice.h"
#include "cuda/kernels/elementwise.h"
#include "cuda/kernels/projection.h"

namespace fastalign::cuda {

namespace {

// The library's product, where the preactivation or the result is to be, and the epilogue over it; false where there is
// no such product.
bool library_product(Device& device, const View& left, const View& right, const ResultEpilogue& epilogue) {
  const int64_t places = epilogue.height * epilogue.width;
  const View sums{.data = epilogue.preactivation != nullptr ? epilogue.preactivation : epilogue.result,
                  .dtype = left.dtype,
                  .dimensions = 4,
                  .sizes = {epilogue.rows, epilogue.columns / places, epilogue.height, epilogue.width},
                  .strides = {epilogue.columns, places, epilogue.width, 1}};
  const View matrix{.data = sums.data,
                    .dtype = sums.dtype,
                    .dimensions = 2,
                    .sizes = {epilogue.rows, epilogue.columns},
                    .strides = {epilogue.columns, 1}};
  const View transposed{.data = right.data,
                        .dtype = right.dtype,
                        .dimensions = 2,
                        .sizes = {right.sizes[1], right.sizes[0]},
                        .strides = {right.strides[1], right.strides[0]}};
  if (!device.multiply(matrix, left, transposed, 1, 0)) return false;
  elementwise(device, sums, epilogue);
  return true;
}

}  // namespace

void product(Device& device, const View& left, const View& right, const ResultEpilogue& epilogue) {
  if (epilogue.rows == 0 || epilogue.columns == 0) return;
  switch (choose(device, left.dtype, epilogue.rows, epilogue.columns, left.sizes[1])) {
    case Method::projection:
      return project(device, {{left, right, epilogue}});
    case Method::library:
      if (library_product(device, left, right, epilogue)) return;
      break;
    case Method::fused:
      break;
  }
  fused_product(device, left, right, epilogue);
}

}  // namespace fastalign::cuda
