// The activation alone: forward, backward, and the difference of PEPITA's two passes.

#include "common/activation.h"

#include "cpu/ops/operators.h"
#include "cpu/ops/tensors.h"

namespace fastalign {

Tensor activation_forward_cpu(const Tensor& a, int64_t activation, double dropout, const MaybeTensor& seed) {
  check_alike({&a});
  const Tensor values = row_major(a);
  Tensor h = empty(a.sizes(), a.scalar_type());
  run_elementwise(values, {.finish = Finish::forward,
                           .activation = activation_of(activation),
                           .dropout = dropout_of(dropout, seed),
                           .result = output(h)});
  return h;
}

Tensor activation_backward_cpu(const Tensor& signal, const Tensor& kept, int64_t activation, bool given_output,
                               double dropout, const MaybeTensor& seed) {
  check_alike({&kept, &signal});
  FASTALIGN_CHECK(signal.numel() == kept.numel(), "signal: expected the ", kept.numel(), " elements of kept, got ",
                  signal.numel());
  const Tensor values = row_major(signal), operand = row_major(kept);
  Tensor delta = empty(kept.sizes(), kept.scalar_type());
  run_elementwise(values, {.finish = given_output ? Finish::derivative_from_output : Finish::derivative,
                           .activation = activation_of(activation),
                           .dropout = dropout_of(dropout, seed),
                           .operand = input(operand),
                           .result = output(delta)});
  return delta;
}

Tensor activation_difference_cpu(const Tensor& a, const Tensor& delta_a, int64_t activation, double dropout,
                                 const MaybeTensor& seed) {
  check_alike({&a, &delta_a});
  FASTALIGN_CHECK(delta_a.numel() == a.numel(), "delta_a: expected the ", a.numel(), " elements of a, got ",
                  delta_a.numel());
  const Tensor values = row_major(delta_a), operand = row_major(a);
  Tensor delta_h = empty(a.sizes(), a.scalar_type());
  run_elementwise(values, {.finish = Finish::difference,
                           .activation = activation_of(activation),
                           .dropout = dropout_of(dropout, seed),
                           .operand = input(operand),
                           .result = output(delta_h)});
  return delta_h;
}

}  // namespace fastalign
