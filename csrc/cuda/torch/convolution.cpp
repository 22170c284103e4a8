// The updates of convolutions.

#include <algorithm>

#include "cuda/torch/device.h"
#include "cuda/torch/operators.h"

namespace fastalign {

namespace {

// None where no convolution of this kind gives a map like post of pre.
std::optional<cuda::Convolution> convolution_of(const Tensor& post, const Tensor& pre, const Integers& kernel_size,
                                                const Integers& stride, const Integers& padding,
                                                const Integers& dilation, int64_t groups) {
  if (!are_pairs({&kernel_size, &stride, &padding, &dilation}) || !fit({&post, &pre}) ||
      !has_shape(post, {-1, -1, -1, -1}) || !has_shape(pre, {post.size(0), -1, -1, -1}) || groups < 1 ||
      post.size(1) % groups != 0 || pre.size(1) % groups != 0) {
    return std::nullopt;
  }
  cuda::Convolution convolution{.groups = groups};
  for (int i = 0; i < 2; ++i) {
    if (kernel_size[i] < 1 || stride[i] < 1 || padding[i] < 0 || dilation[i] < 1) return std::nullopt;
    const int64_t reach = pre.size(2 + i) + 2 * padding[i] - dilation[i] * (kernel_size[i] - 1) - 1;
    if (reach < 0 || reach / stride[i] + 1 != post.size(2 + i)) return std::nullopt;
    convolution.kernel[i] = kernel_size[i];
    convolution.stride[i] = stride[i];
    convolution.padding[i] = padding[i];
    convolution.dilation[i] = dilation[i];
  }
  return convolution;
}

TwoTensors update(const cuda::Post& post, const Tensor& pre, const cuda::Convolution& convolution, double scale,
                  bool with_bias) {
  const int64_t channels = post.values.sizes[1];
  const Tensor kernel =
      empty(pre, {channels, pre.size(1) / convolution.groups, convolution.kernel[0], convolution.kernel[1]});
  const Tensor bias = empty(pre, {with_bias ? channels : 0});
  TorchDevice device(pre, Products::convolutions);
  cuda::convolution_update(device, {.post = post,
                                    .pre = view(pre),
                                    .convolution = convolution,
                                    .scale = scale,
                                    .weight = {.target = view(kernel)},
                                    .bias = {.target = with_bias ? view(bias) : cuda::View{}}});
  return {kernel, bias};
}

}  // namespace

std::optional<TwoTensors> conv2d_update_cuda(const Tensor& post, const Tensor& pre, const Integers& kernel_size,
                                             const Integers& stride, const Integers& padding, const Integers& dilation,
                                             int64_t groups, double scale, bool with_bias) {
  const auto convolution = convolution_of(post, pre, kernel_size, stride, padding, dilation, groups);
  if (!convolution) return std::nullopt;
  return update({.values = view(post)}, pre, *convolution, scale, with_bias);
}

std::optional<TwoTensors> dfa_conv2d_update_cuda(const Tensor& error, const Tensor& feedback, const Tensor& kept,
                                                 const Tensor& x, int64_t activation_number, bool given_output,
                                                 const Integers& kernel_size, const Integers& stride,
                                                 const Integers& padding, const Integers& dilation, int64_t groups) {
  const auto convolution = convolution_of(kept, x, kernel_size, stride, padding, dilation, groups);
  if (!convolution || !fit({&kept, &error, &feedback}) || !has_shape(error, {kept.size(0), -1}) ||
      !has_shape(feedback, {sample_size(kept), error.size(1)})) {
    return std::nullopt;
  }
  const auto function = activity(kept, activation_number);
  if (!function) return std::nullopt;
  const cuda::Post post{.kind = cuda::Post::Kind::feedback_term,
                        .values = view(kept),
                        .signal = view(error),
                        .feedback = view(feedback),
                        .activation = function->activation,
                        .given_output = given_output};
  return update(post, x, *convolution, 1, true);
}

std::optional<TwoTensors> pepita_conv2d_update_cuda(const Tensor& h, const Tensor& h_mod, const Tensor& x_mod,
                                                    const Integers& kernel_size, const Integers& stride,
                                                    const Integers& padding, const Integers& dilation, int64_t groups) {
  const auto convolution = convolution_of(h, x_mod, kernel_size, stride, padding, dilation, groups);
  if (!convolution || !fit({&h, &h_mod}) || !same_shape(h, h_mod)) return std::nullopt;
  const cuda::Post post{.kind = cuda::Post::Kind::difference, .values = view(h), .modulated = view(h_mod)};
  const double scale = 1.0 / static_cast<double>(std::max<int64_t>(h.size(0) * h.size(2) * h.size(3), 1));
  return update(post, x_mod, *convolution, scale, true);
}

}  // namespace fastalign
