// The activation alone: forward, backward, and the difference of PEPITA's two passes.

#include "cuda/kernels/elementwise.h"
#include "cuda/ops/operations.h"

namespace fastalign::cuda {

void activation_forward(Device& device, const View& a, const Activity& activity, const View& h) {
  elementwise(device, a, epilogue_of(Finish::forward, activity, h));
}

void activation_backward(Device& device, const View& signal, const View& kept, const Activity& activity,
                         bool given_output, const View& delta) {
  const Finish finish = given_output ? Finish::derivative_from_output : Finish::derivative;
  elementwise(device, signal, epilogue_of(finish, activity, kept, delta));
}

void activation_difference(Device& device, const View& a, const View& delta_a, const Activity& activity,
                           const View& delta_h) {
  elementwise(device, delta_a, epilogue_of(Finish::difference, activity, a, delta_h));
}

}  // namespace fastalign::cuda
