#include "cuda/product.h"

#include "cuda/choice.h"
#include "cuda/projection.h"

namespace fastalign::cuda {

void product(Device& device, const View& left, const View& right, const ResultEpilogue& epilogue) {
  if (choose(device, left.dtype, epilogue.rows, epilogue.columns, left.sizes[1]) == Method::projection) {
    return project(device, {{left, right, epilogue}});
  }
  fused_product(device, left, right, epilogue);
}

}  // namespace fastalign::cuda
