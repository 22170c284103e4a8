// The CUDA device that torch is using for a tensor, as operations ask for it.

#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "cuda/ops/device.h"
#include "cuda/torch/precision.h"

namespace fastalign {

// During its life the tensor's device is the current one. An operation says which float32 products it takes.
class TorchDevice final : public cuda::Device {
 public:
  explicit TorchDevice(const torch::stable::Tensor& tensor, Products products = Products::none);

  // Torch's own memory: what is freed here serves the stream's next kernels.
  void* scratch(size_t bytes) override;
  bool multiply(const cuda::View& result, const cuda::View& left, const cuda::View& right, double scale,
                double keep) override;

 private:
  torch::stable::Tensor tensor_;
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
  std::vector<torch::stable::Tensor> scratch_;
};

}  // namespace fastalign
