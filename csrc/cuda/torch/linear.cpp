// Linear layers: forward with bias, activation and dropout, and PEPITA's difference.

#include "cuda/torch/device.h"
#include "cuda/torch/operators.h"

namespace fastalign {

std::optional<TwoTensors> linear_forward_cuda(const Tensor& x, const Tensor& weight, const MaybeTensor& bias,
                                              int64_t activation_number, double dropout, const MaybeTensor& seed,
                                              bool keep_preactivation) {
  if (!fit({&x, &weight, bias ? &*bias : &x}) || !has_shape(x, {-1, -1}) || !has_shape(weight, {-1, x.size(1)}) ||
      (bias && !has_shape(*bias, {weight.size(0)}))) {
    return std::nullopt;
  }
  const auto function = activity(x, activation_number, dropout, seed);
  if (!function) return std::nullopt;
  const Tensor h = empty(x, {x.size(0), weight.size(0)});
  const Tensor a = keep_preactivation ? empty_like(h) : empty(x, {0});
  TorchDevice device(x, Products::matrices);
  cuda::linear_forward(device, view(x), view(weight), view(bias), *function, view(h),
                       keep_preactivation ? view(a) : cuda::View{});
  return TwoTensors{h, a};
}

std::optional<Tensor> linear_difference_cuda(const Tensor& delta, const Tensor& weight, const Tensor& preactivation,
                                             int64_t activation_number, double dropout, const MaybeTensor& seed) {
  if (!fit({&preactivation, &delta, &weight}) || !has_shape(preactivation, {-1, -1}) ||
      !has_shape(delta, {preactivation.size(0), -1}) || !has_shape(weight, {preactivation.size(1), delta.size(1)})) {
    return std::nullopt;
  }
  const auto function = activity(preactivation, activation_number, dropout, seed);
  if (!function) return std::nullopt;
  const Tensor delta_h = empty_like(preactivation);
  TorchDevice device(preactivation, Products::matrices);
  cuda::linear_difference(device, view(delta), view(weight), view(preactivation), *function, view(delta_h));
  return delta_h;
}

}  // namespace fastalign
