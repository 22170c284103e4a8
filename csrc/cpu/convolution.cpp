// The updates of convolutions.

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "cpu/operators.h"
#include "cpu/update.h"

namespace fastalign {

namespace {

struct Convolution {
  const Integers& kernel_size;
  const Integers& stride;
  const Integers& padding;
  const Integers& dilation;
  int64_t groups;
};

void check(const Convolution& c, const Tensor& post, const Tensor& pre) {
  check_shape("pre", pre, {post.size(0), -1, -1, -1});
  STD_TORCH_CHECK(c.groups >= 1 && post.size(1) % c.groups == 0 && pre.size(1) % c.groups == 0,
                  "groups: expected a divisor of ", post.size(1), " and ", pre.size(1), ", got ", c.groups);
  for (int i = 0; i < 2; ++i) {
    const bool valid = c.kernel_size[i] >= 1 && c.stride[i] >= 1 && c.padding[i] >= 0 && c.dilation[i] >= 1;
    STD_TORCH_CHECK(valid, "expected kernel_size, stride and dilation of at least 1 and padding of at least 0");
    const int64_t size =
        (pre.size(2 + i) + 2 * c.padding[i] - c.dilation[i] * (c.kernel_size[i] - 1) - 1) / c.stride[i] + 1;
    STD_TORCH_CHECK(size == post.size(2 + i), "post: expected maps as the convolution of pre gives, ", size,
                    " at dimension ", 2 + i, ", got ", post.size(2 + i));
  }
}

// Σ post ⊗ patch of pre, by torch; both of a wide dtype.
Tensor kernel_gradient(const Tensor& post, const Tensor& pre, const Convolution& c) {
  const int64_t one = 1;
  const Tensor number = empty({&one, 1}, post.scalar_type());
  const int64_t sizes[] = {post.size(1), pre.size(1) / c.groups, c.kernel_size[0], c.kernel_size[1]};
  const int64_t no_strides[] = {0, 0, 0, 0}, no_output_padding[] = {0, 0};
  const Tensor kernel = view(number, {sizes, 4}, {no_strides, 4});  // only its shape is used
  const int32_t only_kernel[] = {0, 1, 0};
  AtenTensorHandle input_gradient = nullptr, kernel_gradient = nullptr, bias_gradient = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_convolution_backward(
      post.get(), pre.get(), kernel.get(), nullptr, 0, c.stride.data(), 2, c.padding.data(), 2, c.dilation.data(), 2, 0,
      no_output_padding, 2, c.groups, only_kernel, 3, &input_gradient, &kernel_gradient, &bias_gradient));
  for (AtenTensorHandle unused : {input_gradient, bias_gradient}) {
    if (unused != nullptr) STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_delete_tensor_object(unused));
  }
  return Tensor(kernel_gradient);
}

// ΔK = scale · Σ post ⊗ patch of pre and Δb = scale · Σ post in `dtype`; post contiguous.
TwoTensors update(const Tensor& post, const Tensor& pre, const Convolution& c, double scale, bool with_bias,
                  ScalarType dtype) {
  const int64_t sizes[] = {post.size(1), pre.size(1) / c.groups, c.kernel_size[0], c.kernel_size[1]};
  Tensor kernel_update = empty({sizes, 4}, dtype);
  if (post.numel() == 0 || kernel_update.numel() == 0) {
    torch::stable::zero_(kernel_update);
  } else {
    const Tensor gradient = row_major(kernel_gradient(wide(post), wide(pre), c));
    run_elementwise(gradient, {.finish = Finish::scale, .scale = scale, .result = output(kernel_update)});
  }
  return {kernel_update, with_bias ? bias_update(post, scale, dtype) : no_bias_update(dtype)};
}

}  // namespace

TwoTensors conv2d_update_cpu(const Tensor& post, const Tensor& pre, const Integers& kernel_size, const Integers& stride,
                             const Integers& padding, const Integers& dilation, int64_t groups, double scale,
                             bool with_bias) {
  const Convolution c{kernel_size, stride, padding, dilation, groups};
  check_alike({&post, &pre});
  check_shape("post", post, {-1, -1, -1, -1});
  check(c, post, pre);
  return update(post, pre, c, scale, with_bias, post.scalar_type());
}

TwoTensors dfa_conv2d_update_cpu(const Tensor& error, const Tensor& feedback, const Tensor& kept, const Tensor& x,
                                 int64_t activation, bool given_output, const Integers& kernel_size,
                                 const Integers& stride, const Integers& padding, const Integers& dilation,
                                 int64_t groups) {
  const Convolution c{kernel_size, stride, padding, dilation, groups};
  check_alike({&kept, &error, &feedback, &x});
  check_shape("preactivation", kept, {-1, -1, -1, -1});
  check(c, kept, x);
  const Tensor delta = wide_feedback_term(error, feedback, kept, activation, given_output);
  return update(delta, x, c, 1, true, kept.scalar_type());
}

TwoTensors pepita_conv2d_update_cpu(const Tensor& h, const Tensor& h_mod, const Tensor& x_mod,
                                    const Integers& kernel_size, const Integers& stride, const Integers& padding,
                                    const Integers& dilation, int64_t groups) {
  const Convolution c{kernel_size, stride, padding, dilation, groups};
  check_alike({&h, &h_mod, &x_mod});
  check_shape("h", h, {-1, -1, -1, -1});
  check_shape("h_mod", h_mod, {h.size(0), h.size(1), h.size(2), h.size(3)});
  check(c, h, x_mod);
  const int64_t products = h.size(0) * h.size(2) * h.size(3);
  const double scale = 1.0 / static_cast<double>(products > 0 ? products : 1);
  return update(wide_difference(h, h_mod), x_mod, c, scale, true, h.scalar_type());
}

}  // namespace fastalign
