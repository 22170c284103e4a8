// The activation alone: forward, backward, and the difference of PEPITA's two passes.

#include "cuda/torch/device.h"
#include "cuda/torch/operators.h"

namespace fastalign {

namespace {

bool has_few_dimensions(const Tensor& tensor) { return tensor.dim() >= 1 && tensor.dim() <= 4; }

}  // namespace

std::optional<Tensor> activation_forward_cuda(const Tensor& a, int64_t activation_number, double dropout,
                                              const MaybeTensor& seed) {
  if (!fit({&a}) || !has_few_dimensions(a)) return std::nullopt;
  const auto function = activity(a, activation_number, dropout, seed);
  if (!function) return std::nullopt;
  const Tensor h = empty_like(a);
  TorchDevice device(a);
  cuda::activation_forward(device, view(a), *function, view(h));
  return h;
}

std::optional<Tensor> activation_backward_cuda(const Tensor& signal, const Tensor& kept, int64_t activation_number,
                                               bool given_output, double dropout, const MaybeTensor& seed) {
  if (!fit({&kept, &signal}) || !has_few_dimensions(kept) || signal.numel() != kept.numel()) return std::nullopt;
  const auto function = activity(kept, activation_number, dropout, seed);
  if (!function) return std::nullopt;
  const Tensor delta = empty_like(kept);
  TorchDevice device(kept);
  const Tensor shaped = reshaped(signal, kept.sizes());
  cuda::activation_backward(device, view(shaped), view(kept), *function, given_output, view(delta));
  return delta;
}

std::optional<Tensor> activation_difference_cuda(const Tensor& a, const Tensor& delta_a, int64_t activation_number,
                                                 double dropout, const MaybeTensor& seed) {
  if (!fit({&a, &delta_a}) || !has_few_dimensions(a) || delta_a.numel() != a.numel()) return std::nullopt;
  const auto function = activity(a, activation_number, dropout, seed);
  if (!function) return std::nullopt;
  const Tensor delta_h = empty_like(a);
  TorchDevice device(a);
  const Tensor shaped = reshaped(delta_a, a.sizes());
  cuda::activation_difference(device, view(a), view(shaped), *function, view(delta_h));
  return delta_h;
}

}  // namespace fastalign
