#include "cuda/product.h"

#include "cuda/choice.h"

namespace fastalign::cuda {

void product(Device& device, const View& left, const View& right, const ResultEpilogue& epilogue) {
  fused_product(device, left, right, epilogue);
}

}  // namespace fastalign::cuda
