// The layers' products: the forward pass and the difference of PEPITA's second pass.

#include "cuda/kernels/product.h"
#include "cuda/ops/operations.h"

namespace fastalign::cuda {

void linear_forward(Device& device, const View& x, const View& weight, const View& bias, const Activity& activity,
                    const View& h, const View& preactivation) {
  ResultEpilogue epilogue = epilogue_of(Finish::forward, activity, h);
  epilogue.bias = bias.data;
  epilogue.bias_stride = bias.strides[0];
  epilogue.preactivation = preactivation.data;
  product(device, x, weight, epilogue);
}

void linear_difference(Device& device, const View& delta, const View& weight, const View& preactivation,
                       const Activity& activity, const View& delta_h) {
  product(device, delta, weight, epilogue_of(Finish::difference, activity, preactivation, delta_h));
}

}  // namespace fastalign::cuda
