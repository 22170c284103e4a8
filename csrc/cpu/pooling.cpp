// PEPITA's difference through max-pooling.

#include "cpu/dispatch.h"
#include "cpu/operators.h"
#include "cpu/tensors.h"
#include "pooled_size.h"

namespace fastalign {

Tensor max_pool2d_difference_cpu(const Tensor& h, const Tensor& delta_h, const Integers& kernel_size,
                                 const Integers& stride, const Integers& padding, const Integers& dilation,
                                 bool ceil_mode) {
  check_alike({&h, &delta_h});
  check_shape("h", h, {-1, -1, -1, -1});
  check_shape("delta_h", delta_h, {h.size(0), h.size(1), h.size(2), h.size(3)});
  Pooling pooling{.planes = h.size(0) * h.size(1), .height = h.size(2), .width = h.size(3)};
  const Integers& steps = stride.empty() ? kernel_size : stride;
  check_pairs({&kernel_size, &steps, &padding, &dilation});
  int64_t sizes[] = {h.size(0), h.size(1), 0, 0};
  for (int i = 0; i < 2; ++i) {
    const int64_t kernel = kernel_size[i];
    STD_TORCH_CHECK(kernel >= 1 && steps[i] >= 1 && dilation[i] >= 1,
                    "expected kernel_size, stride and dilation of at least 1");
    STD_TORCH_CHECK(padding[i] >= 0 && padding[i] <= ((kernel - 1) * dilation[i] + 1) / 2,
                    "padding: expected at least 0 and at most half of the window, got ", padding[i]);
    sizes[2 + i] = pooled_size(h.size(2 + i), kernel, steps[i], padding[i], dilation[i], ceil_mode);
    STD_TORCH_CHECK(sizes[2 + i] >= 1, "kernel_size: expected a window that fits into the padded map of ",
                    h.size(2 + i), ", got ", kernel);
    STD_TORCH_CHECK(windows_meet_map(h.size(2 + i), steps[i], padding[i], dilation[i], sizes[2 + i]),
                    "dilation: expected no window that steps over a map of ", h.size(2 + i), ", got ", dilation[i]);
    pooling.kernel[i] = kernel;
    pooling.stride[i] = steps[i];
    pooling.padding[i] = padding[i];
    pooling.dilation[i] = dilation[i];
  }
  pooling.output_height = sizes[2];
  pooling.output_width = sizes[3];
  const Tensor standard = row_major(h), delta = row_major(delta_h);
  Tensor difference = empty({sizes, 4}, h.scalar_type());
  pooling.h = input(standard);
  pooling.delta = input(delta);
  pooling.difference = output(difference);
  const Kernels& kernels = cpu_kernels();
  const int64_t window = kernel_size[0] * kernel_size[1] * sizes[2] * sizes[3];
  parallel(pooling.planes, 1 + 8192 / (window + 1),
           [&](int64_t begin, int64_t end) { kernels.max_pool2d_difference(pooling, begin, end); });
  return difference;
}

}  // namespace fastalign
