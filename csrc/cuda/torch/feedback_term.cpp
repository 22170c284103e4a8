// The feedback term of the backward rules.

#include "cuda/torch/device.h"
#include "cuda/torch/operators.h"

namespace fastalign {

std::optional<Tensor> feedback_term_cuda(const Tensor& signal, const Tensor& feedback, const Tensor& kept,
                                         int64_t activation_number, bool given_output, double dropout,
                                         const MaybeTensor& seed) {
  const bool together = fit({&kept, &signal, &feedback}) && is_batch(kept) && has_shape(signal, {kept.size(0), -1}) &&
                        has_shape(feedback, {sample_size(kept), signal.size(1)});
  if (!together) return std::nullopt;
  const auto function = activity(kept, activation_number, dropout, seed);
  if (!function) return std::nullopt;
  const Tensor operand = layer(kept), delta = empty_like(kept);
  TorchDevice device(kept, Products::matrices);
  cuda::feedback_terms(device, view(signal), {{view(feedback), view(operand), view(layer(delta))}}, *function,
                       given_output);
  return delta;
}

}  // namespace fastalign
