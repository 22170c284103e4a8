// The CUDA kernels as torch's dispatcher calls them.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace fastalign {

torch::stable::Tensor feedback_term_cuda(const torch::stable::Tensor& signal, const torch::stable::Tensor& feedback,
                                         const torch::stable::Tensor& kept, int64_t activation, bool given_output,
                                         double dropout, const std::optional<torch::stable::Tensor>& seed);

}  // namespace fastalign
