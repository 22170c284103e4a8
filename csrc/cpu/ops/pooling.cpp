// Max-pooling, its way back through the activation before it, and PEPITA's difference through it.

#include "common/activation.h"
#include "common/pooled_size.h"
#include "cpu/dispatch.h"
#include "cpu/ops/operators.h"
#include "cpu/ops/tensors.h"

namespace fastalign {

namespace {

// Windows over the last two dimensions of a tensor h of four; what is read and written is still to be said.
struct Windows {
  Pooling pooling;
  int64_t pooled_sizes[4];

  Windows(const Tensor& h, const Integers& kernel_size, const Integers& stride, const Integers& padding,
          const Integers& dilation, bool ceil_mode)
      : pooling{.planes = h.size(0) * h.size(1), .height = h.size(2), .width = h.size(3)},
        pooled_sizes{h.size(0), h.size(1)} {
    const Integers& steps = stride.empty() ? kernel_size : stride;
    check_pairs({&kernel_size, &steps, &padding, &dilation});
    for (int i = 0; i < 2; ++i) {
      const int64_t kernel = kernel_size[i], size = h.size(2 + i);
      FASTALIGN_CHECK(kernel >= 1 && steps[i] >= 1 && dilation[i] >= 1,
                      "expected kernel_size, stride and dilation of at least 1");
      FASTALIGN_CHECK(padding[i] >= 0 && padding[i] <= ((kernel - 1) * dilation[i] + 1) / 2,
                      "padding: expected at least 0 and at most half of the window, got ", padding[i]);
      const int64_t pooled = pooled_size(size, kernel, steps[i], padding[i], dilation[i], ceil_mode);
      FASTALIGN_CHECK(pooled >= 1, "kernel_size: expected a window that fits into the padded map of ", size, ", got ",
                      kernel);
      FASTALIGN_CHECK(windows_meet_map(size, steps[i], padding[i], dilation[i], pooled),
                      "dilation: expected no window that steps over a map of ", size, ", got ", dilation[i]);
      pooled_sizes[2 + i] = pooled;
      pooling.kernel[i] = kernel;
      pooling.stride[i] = steps[i];
      pooling.padding[i] = padding[i];
      pooling.dilation[i] = dilation[i];
    }
    pooling.output_height = pooled_sizes[2];
    pooling.output_width = pooled_sizes[3];
    pooling.by_bands = pooling.width <= pooling_width;
    for (int i = 0; i < 2; ++i) {
      pooling.by_bands = pooling.by_bands && kernel_size[i] == 2 && steps[i] == 2 && padding[i] == 0 &&
                         dilation[i] == 1 && 2 * pooled_sizes[2 + i] <= h.size(2 + i);
    }
  }

  // Runs a function of (begin, end) over ranges of the planes.
  template <typename Function>
  void for_planes(const Function& function) const {
    const int64_t places = pooling.kernel[0] * pooling.kernel[1] * pooled_sizes[2] * pooled_sizes[3];
    parallel(pooling.planes, 1 + 8192 / (places + 1), function);
  }
};

}  // namespace

Tensor max_pool2d_forward_cpu(const Tensor& h, const Integers& kernel_size, const Integers& stride,
                              const Integers& padding, const Integers& dilation, bool ceil_mode) {
  check_alike({&h});
  check_shape("h", h, {-1, -1, -1, -1});
  Windows windows(h, kernel_size, stride, padding, dilation, ceil_mode);
  const Tensor values = row_major(h);
  Tensor pooled = empty({windows.pooled_sizes, 4}, h.scalar_type());
  windows.pooling.h = input(values);
  windows.pooling.result = output(pooled);
  const Kernels& kernels = cpu_kernels();
  windows.for_planes([&](int64_t begin, int64_t end) { kernels.max_pool2d_forward(windows.pooling, begin, end); });
  return pooled;
}

Tensor max_pool2d_backward_cpu(const Tensor& signal, const Tensor& h, const Tensor& kept, int64_t activation,
                               bool given_output, double dropout, const MaybeTensor& seed, const Integers& kernel_size,
                               const Integers& stride, const Integers& padding, const Integers& dilation,
                               bool ceil_mode) {
  check_alike({&h, &signal, &kept});
  check_shape("h", h, {-1, -1, -1, -1});
  check_same_shape("kept", kept, h);
  Windows windows(h, kernel_size, stride, padding, dilation, ceil_mode);
  FASTALIGN_CHECK(h.size(2) * h.size(3) <= INT32_MAX, "h: expected maps of fewer than 2³¹ elements");
  const int64_t* sizes = windows.pooled_sizes;
  check_shape("signal", signal, {sizes[0], sizes[1], sizes[2], sizes[3]});
  const Tensor values = row_major(h), operand = row_major(kept), received = row_major(signal);
  Tensor delta = empty(h.sizes(), h.scalar_type());
  const Tensor sums = is_half(h) && !windows.pooling.by_bands ? empty(h.sizes(), wide_dtype(h)) : delta;
  windows.pooling.h = input(values);
  windows.pooling.signal = input(received);
  windows.pooling.result = output(sums);
  const Epilogue epilogue{.finish = given_output ? Finish::derivative_from_output : Finish::derivative,
                          .activation = activation_of(activation),
                          .dropout = dropout_of(dropout, seed),
                          .operand = input(operand),
                          .result = output(delta)};
  const Kernels& kernels = cpu_kernels();
  windows.for_planes(
      [&](int64_t begin, int64_t end) { kernels.max_pool2d_backward(windows.pooling, epilogue, begin, end); });
  return delta;
}

Tensor max_pool2d_difference_cpu(const Tensor& h, const Tensor& delta_h, const Integers& kernel_size,
                                 const Integers& stride, const Integers& padding, const Integers& dilation,
                                 bool ceil_mode) {
  check_alike({&h, &delta_h});
  check_shape("h", h, {-1, -1, -1, -1});
  check_same_shape("delta_h", delta_h, h);
  Windows windows(h, kernel_size, stride, padding, dilation, ceil_mode);
  const Tensor standard = row_major(h), delta = row_major(delta_h);
  Tensor difference = empty({windows.pooled_sizes, 4}, h.scalar_type());
  windows.pooling.h = input(standard);
  windows.pooling.delta = input(delta);
  windows.pooling.result = output(difference);
  const Kernels& kernels = cpu_kernels();
  windows.for_planes([&](int64_t begin, int64_t end) { kernels.max_pool2d_difference(windows.pooling, begin, end); });
  return difference;
}

}  // namespace fastalign
