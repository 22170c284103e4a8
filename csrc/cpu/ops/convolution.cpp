// The updates of convolutions.

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <algorithm>
#include <cmath>

#include "cpu/dispatch.h"
#include "cpu/ops/operators.h"
#include "cpu/ops/update.h"

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
  check_pairs({&c.kernel_size, &c.stride, &c.padding, &c.dilation});
  check_shape("pre", pre, {post.size(0), -1, -1, -1});
  FASTALIGN_CHECK(c.groups >= 1 && post.size(1) % c.groups == 0 && pre.size(1) % c.groups == 0,
                  "groups: expected a divisor of ", post.size(1), " and ", pre.size(1), ", got ", c.groups);
  for (int i = 0; i < 2; ++i) {
    const bool valid = c.kernel_size[i] >= 1 && c.stride[i] >= 1 && c.padding[i] >= 0 && c.dilation[i] >= 1;
    FASTALIGN_CHECK(valid, "expected kernel_size, stride and dilation of at least 1 and padding of at least 0");
    const int64_t size =
        (pre.size(2 + i) + 2 * c.padding[i] - c.dilation[i] * (c.kernel_size[i] - 1) - 1) / c.stride[i] + 1;
    FASTALIGN_CHECK(size == post.size(2 + i), "post: expected maps as the convolution of pre gives, ", size,
                    " at dimension ", 2 + i, ", got ", post.size(2 + i));
  }
}

// Σ post ⊗ patch of pre, by torch; both in `update_dtype`.
Tensor kernel_gradient(const Tensor& post, const Tensor& pre, const Convolution& c) {
  const int64_t one = 1;
  const Tensor number = empty({&one, 1}, post.scalar_type());
  const int64_t sizes[] = {post.size(1), pre.size(1) / c.groups, c.kernel_size[0], c.kernel_size[1]};
  const int64_t no_strides[] = {0, 0, 0, 0}, no_output_padding[] = {0, 0};
  const Tensor kernel = view(number, {sizes, 4}, {no_strides, 4});  // only its shape is used
  const int32_t only_kernel[] = {0, 1, 0};
  AtenTensorHandle input_gradient = nullptr, kernel_gradient = nullptr, bias_gradient = nullptr;
  check_call("convolution_backward", aoti_torch_cpu_convolution_backward(
                                         post.get(), pre.get(), kernel.get(), nullptr, 0, c.stride.data(), 2,
                                         c.padding.data(), 2, c.dilation.data(), 2, 0, no_output_padding, 2, c.groups,
                                         only_kernel, 3, &input_gradient, &kernel_gradient, &bias_gradient));
  for (AtenTensorHandle unused : {input_gradient, bias_gradient}) {
    if (unused != nullptr) check_call("delete", aoti_torch_delete_tensor_object(unused));
  }
  return Tensor(kernel_gradient);
}

ScalarType update_dtype(const Tensor& post, const Tensor& pre, const Convolution& c) {
  return factor_dtype(pre, post.numel() * (pre.size(1) / c.groups) * c.kernel_size[0] * c.kernel_size[1]);
}

// Up to how many input channels the own kernel is about as fast as torch's or faster, forming the difference as it
// goes: where torch multiplies float32, and where it multiplies bfloat16.
constexpr int64_t most_inputs = 6, most_inputs_of_halves = 1;

bool own_kernel_takes(const Convolution& c, const Tensor& post, const Tensor& pre) {
  const int64_t height = pre.size(2) + 2 * c.padding[0], width = pre.size(3) + 2 * c.padding[1];
  const int64_t reach = c.dilation[0] * (c.kernel_size[0] - 1) * width + c.dilation[1] * (c.kernel_size[1] - 1);
  const bool halves = update_dtype(post, pre, c) != wide_dtype(pre);
  return wide_dtype(post) == ScalarType::Float && c.groups == 1 && c.stride[0] == 1 && c.stride[1] == 1 &&
         pre.size(1) <= (halves ? most_inputs_of_halves : most_inputs) &&
         pre.size(1) * c.kernel_size[0] * c.kernel_size[1] + 4 <= convolution_taps &&
         post.size(2) * width + 16 <= convolution_places && pre.size(1) * height * width <= convolution_inputs &&
         reach + 16 <= convolution_places;
}

// Adds the rows of a float32 matrix (rows, columns) up in the first one.
void add_rows(float* matrix, int64_t rows, int64_t columns) {
  for (int64_t column = 0; column < columns; ++column) {
    double sum = 0;
    for (int64_t row = 0; row < rows; ++row) sum += double(matrix[row * columns + column]);
    matrix[column] = static_cast<float>(sum);
  }
}

// Σ (post − post_mod) ⊗ patch of pre (channels, inputs · kernel) and Σ (post − post_mod) (channels), in float32, the
// sums over the chunks.
TwoTensors own_sums(const Tensor& post, const Tensor* post_mod, const Tensor& pre, const Convolution& c) {
  constexpr int64_t most_chunks = 8;  // of samples, whatever the number of threads, so that this changes no bit
  const auto readable = [](const Tensor& t) { return row_major(t.scalar_type() == ScalarType::Half ? wide(t) : t); };
  const Tensor standard = readable(post), x = row_major(pre);
  const Tensor modulated = post_mod == nullptr ? standard : readable(*post_mod);
  const int64_t samples = post.size(0), channels = post.size(1);
  const int64_t taps = pre.size(1) * c.kernel_size[0] * c.kernel_size[1];
  const int64_t chunk = (samples + most_chunks - 1) / most_chunks, chunks = (samples + chunk - 1) / chunk;
  const int64_t sizes[] = {chunks, channels, taps};
  const Tensor products = empty({sizes, 3}, ScalarType::Float), totals = empty({sizes, 2}, ScalarType::Float);
  const ConvolutionUpdate update{
      .post = input(standard),
      .post_mod = post_mod == nullptr ? Input{} : input(modulated),
      .pre = input(x),
      .products = static_cast<float*>(products.mutable_data_ptr()),
      .totals = static_cast<float*>(totals.mutable_data_ptr()),
      .samples = samples,
      .channels = channels,
      .output_height = post.size(2),
      .output_width = post.size(3),
      .inputs = pre.size(1),
      .height = pre.size(2),
      .width = pre.size(3),
      .kernel = {c.kernel_size[0], c.kernel_size[1]},
      .padding = {c.padding[0], c.padding[1]},
      .dilation = {c.dilation[0], c.dilation[1]},
      .chunk = chunk,
  };
  const Kernels& kernels = cpu_kernels();
  const int64_t blocks = (channels + convolution_channels - 1) / convolution_channels;
  parallel(chunks * blocks, 1, [&](int64_t begin, int64_t end) { kernels.convolution_update(update, begin, end); });
  add_rows(update.products, chunks, channels * taps);
  add_rows(update.totals, chunks, channels);
  return {torch::stable::select(products, 0, 0), torch::stable::select(totals, 0, 0)};
}

bool all_finite(const Tensor& sums) {
  const float* values = static_cast<const float*>(sums.const_data_ptr());
  return std::all_of(values, values + sums.numel(), [](float value) { return std::isfinite(value); });
}

void scale_into(const Tensor& result, const Tensor& sums, double scale) {
  run_elementwise(sums, {.finish = Finish::scale, .scale = scale, .result = output(result)});
}

// ΔK = scale · Σ (post − post_mod) ⊗ patch of pre and Δb = scale · Σ (post − post_mod) in `dtype`; post_mod may be
// null.
TwoTensors update(const Tensor& post, const Tensor* post_mod, const Tensor& pre, const Convolution& c, double scale,
                  bool with_bias, ScalarType dtype) {
  const int64_t sizes[] = {post.size(1), pre.size(1) / c.groups, c.kernel_size[0], c.kernel_size[1]};
  Tensor kernel_update = empty({sizes, 4}, dtype);
  if (post.numel() == 0 || kernel_update.numel() == 0) {
    torch::stable::zero_(kernel_update);
    if (!with_bias) return {kernel_update, no_bias_update(dtype)};
    const Tensor given = post_mod == nullptr ? post : difference(post, *post_mod, wide_dtype(post));
    return {kernel_update, bias_update(given, scale, dtype)};
  }
  if (own_kernel_takes(c, post, pre)) {
    const auto [products, totals] = own_sums(post, post_mod, pre, c);
    // The zeros between the rows times NaN or infinity are NaN; then torch says in which taps that belongs.
    if (all_finite(products)) {
      scale_into(kernel_update, products, scale);
      Tensor bias_update = with_bias ? empty({sizes, 1}, dtype) : no_bias_update(dtype);
      if (with_bias) scale_into(bias_update, totals, scale);
      return {kernel_update, bias_update};
    }
  }
  const ScalarType factors = update_dtype(post, pre, c);
  const Tensor given = post_mod == nullptr ? in_dtype(post, factors) : difference(post, *post_mod, factors);
  scale_into(kernel_update, row_major(kernel_gradient(given, in_dtype(pre, factors), c)), scale);
  return {kernel_update, with_bias ? bias_update(given, scale, dtype) : no_bias_update(dtype)};
}

}  // namespace

TwoTensors conv2d_update_cpu(const Tensor& post, const Tensor& pre, const Integers& kernel_size, const Integers& stride,
                             const Integers& padding, const Integers& dilation, int64_t groups, double scale,
                             bool with_bias) {
  const Convolution c{kernel_size, stride, padding, dilation, groups};
  check_alike({&post, &pre});
  check_shape("post", post, {-1, -1, -1, -1});
  check(c, post, pre);
  return update(post, nullptr, pre, c, scale, with_bias, post.scalar_type());
}

TwoTensors dfa_conv2d_update_cpu(const Tensor& error, const Tensor& feedback, const Tensor& kept, const Tensor& x,
                                 int64_t activation, bool given_output, const Integers& kernel_size,
                                 const Integers& stride, const Integers& padding, const Integers& dilation,
                                 int64_t groups) {
  const Convolution c{kernel_size, stride, padding, dilation, groups};
  check_alike({&kept, &error, &feedback, &x});
  check_shape("preactivation", kept, {-1, -1, -1, -1});
  check(c, kept, x);
  const ScalarType dtype = own_kernel_takes(c, kept, x) ? wide_dtype(kept) : update_dtype(kept, x, c);
  const Tensor delta = feedback_term(error, feedback, kept, activation, given_output, dtype);
  return update(delta, nullptr, x, c, 1, true, kept.scalar_type());
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
  return update(h, &h_mod, x_mod, c, scale, true, h.scalar_type());
}

}  // namespace fastalign
