#include "cuda/torch/device.h"

#include <torch/csrc/stable/ops.h>

#include "cuda/force.h"
#include "cuda/ops/library.h"
#include "cuda/torch/products.h"
#include "cuda/torch/tensors.h"
#include "python/stream.h"

namespace fastalign {

TorchDevice::TorchDevice(const Tensor& tensor, Products products) : tensor_(tensor) {
  const int32_t index = tensor.get_device_index();
  guard_.emplace(index);
  stream = current_cuda_stream(index);
  multiprocessors = cuda_multiprocessors(index);
  force = cuda::force_of_environment();
  if (tensor.scalar_type() != ScalarType::Float) return;
  const Tf32 allowed = allowed_tf32(products);
  tf32 = allowed.of_matrices;
  tf32_of_convolutions = allowed.of_convolutions;
}

void* TorchDevice::scratch(size_t bytes) {
  const auto size = static_cast<int64_t>(bytes);
  scratch_.push_back(torch::stable::new_empty(tensor_, {&size, 1}, ScalarType::Byte));
  return scratch_.back().mutable_data_ptr();
}

bool TorchDevice::multiply(const cuda::View& result, const cuda::View& left, const cuda::View& right, double scale,
                           double keep) {
  return multiply_on_cuda(tensor_of(result, tensor_), tensor_of(left, tensor_), tensor_of(right, tensor_), scale, keep);
}

}  // namespace fastalign
