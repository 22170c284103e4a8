// PEPITA's difference through max-pooling.

#include "common/check.h"
#include "common/pooled_size.h"
#include "cuda/torch/device.h"
#include "cuda/torch/operators.h"

namespace fastalign {

std::optional<Tensor> max_pool2d_difference_cuda(const Tensor& h, const Tensor& delta_h, const Integers& kernel_size,
                                                 const Integers& stride, const Integers& padding,
                                                 const Integers& dilation, bool ceil_mode) {
  if (!fit({&h, &delta_h}) || !has_shape(h, {-1, -1, -1, -1}) || !same_shape(h, delta_h)) return std::nullopt;
  const Integers& steps = stride.empty() ? kernel_size : stride;
  if (!are_pairs({&kernel_size, &steps, &padding, &dilation})) return std::nullopt;
  cuda::Pooling pooling;
  int64_t pooled[2];
  for (int i = 0; i < 2; ++i) {
    const bool valid = kernel_size[i] >= 1 && steps[i] >= 1 && dilation[i] >= 1 && padding[i] >= 0 &&
                       padding[i] <= ((kernel_size[i] - 1) * dilation[i] + 1) / 2;
    if (!valid) return std::nullopt;
    pooled[i] = pooled_size(h.size(2 + i), kernel_size[i], steps[i], padding[i], dilation[i], ceil_mode);
    if (pooled[i] < 1) return std::nullopt;
    // Not for the reference: on a GPU its gather would stop the device.
    FASTALIGN_CHECK(windows_meet_map(h.size(2 + i), steps[i], padding[i], dilation[i], pooled[i]),
                    "dilation: expected no window that steps over a map of ", h.size(2 + i), ", got ", dilation[i]);
    pooling.kernel[i] = kernel_size[i];
    pooling.stride[i] = steps[i];
    pooling.padding[i] = padding[i];
    pooling.dilation[i] = dilation[i];
  }
  const Tensor difference = empty(h, {h.size(0), h.size(1), pooled[0], pooled[1]});
  TorchDevice device(h);
  cuda::max_pool2d_difference(device, view(h), view(delta_h), pooling, view(difference));
  return difference;
}

}  // namespace fastalign
