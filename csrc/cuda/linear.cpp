// The layers' products: the forward pass and the difference of PEPITA's second pass.

#include "cuda/operations.h"
#include "cuda/product.h"

namespace fastalign::cuda {

namespace {

ResultEpilogue epilogue_of(Finish finish, const Activity& activity, const View& result) {
  return {
      .finish = finish,
      .activation = activity.activation,
      .dropout = activity.dropout,
      .seed = static_cast<const int64_t*>(activity.seed.data),
      .result = result.data,
      .rows = result.sizes[0],
      .columns = result.sizes[1],
  };
}

}  // namespace

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
  ResultEpilogue epilogue = epilogue_of(Finish::difference, activity, delta_h);
  epilogue.operand = preactivation.data;
  epilogue.operand_strides[0] = preactivation.strides[0];
  epilogue.operand_strides[1] = preactivation.strides[1];
  product(device, delta, weight, epilogue);
}

}  // namespace fastalign::cuda
