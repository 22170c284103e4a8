// The feedback term of the backward rules, and the modulated input of PEPITA: products with fixed matrices.

#include "cuda/torch/device.h"
#include "cuda/torch/operators.h"

namespace fastalign {

namespace {

bool goes_together(const Tensor& signal, const Tensor& feedback, const Tensor& kept) {
  return fit({&kept, &signal, &feedback}) && is_batch(kept) && has_shape(signal, {kept.size(0), -1}) &&
         has_shape(feedback, {sample_size(kept), signal.size(1)});
}

}  // namespace

std::optional<Tensor> feedback_term_cuda(const Tensor& signal, const Tensor& feedback, const Tensor& kept,
                                         int64_t activation_number, bool given_output, double dropout,
                                         const MaybeTensor& seed) {
  if (!goes_together(signal, feedback, kept)) return std::nullopt;
  const auto function = activity(kept, activation_number, dropout, seed);
  if (!function) return std::nullopt;
  const Tensor delta = empty_like(kept);
  TorchDevice device(kept, Products::matrices);
  const Tensor operand = layer(kept);
  cuda::feedback_terms(device, view(signal), {{view(feedback), view(operand), view(layer(delta))}}, *function,
                       given_output);
  return delta;
}

std::optional<Tensors> feedback_terms_cuda(const Tensor& signal, const Tensors& feedback, const Tensors& kept,
                                           int64_t activation_number, bool given_output) {
  if (feedback.size() != kept.size()) return std::nullopt;
  for (size_t i = 0; i < kept.size(); ++i) {
    if (!goes_together(signal, feedback[i], kept[i])) return std::nullopt;
  }
  const auto function = activity(signal, activation_number);
  if (!function) return std::nullopt;
  TorchDevice device(signal, Products::matrices);
  Tensors deltas, operands;
  std::vector<cuda::FeedbackTerm> terms;
  for (size_t i = 0; i < kept.size(); ++i) {
    deltas.push_back(empty_like(kept[i]));
    operands.push_back(layer(kept[i]));
    terms.push_back({view(feedback[i]), view(operands.back()), view(layer(deltas.back()))});
  }
  cuda::feedback_terms(device, view(signal), terms, *function, given_output);
  return deltas;
}

std::optional<Tensor> modulate_input_cuda(const Tensor& x, const Tensor& error, const Tensor& projection, double sign) {
  if (!fit({&x, &error, &projection}) || !is_batch(x) || !has_shape(error, {x.size(0), -1}) ||
      !has_shape(projection, {sample_size(x), error.size(1)})) {
    return std::nullopt;
  }
  const Tensor modulated = empty_like(x);
  TorchDevice device(x, Products::matrices);
  const Tensor operand = layer(x);
  cuda::modulate_input(device, view(operand), view(error), view(projection), sign, view(layer(modulated)));
  return modulated;
}

}  // namespace fastalign
