// The CUDA kernel of every op as torch's dispatcher calls it: fastalign/reference.py says what each computes. What a
// kernel does not take (shapes that do not go together, other dtypes, a device that cannot run it) goes to the
// reference: then it gives nothing, or false.

#pragma once

#include <torch/csrc/stable/library.h>

#include "cuda/torch/tensors.h"

namespace fastalign {

std::optional<Tensor> feedback_term_cuda(const Tensor& signal, const Tensor& feedback, const Tensor& kept,
                                         int64_t activation, bool given_output, double dropout,
                                         const MaybeTensor& seed);

std::optional<TwoTensors> linear_forward_cuda(const Tensor& x, const Tensor& weight, const MaybeTensor& bias,
                                              int64_t activation, double dropout, const MaybeTensor& seed,
                                              bool keep_preactivation);

std::optional<Tensor> linear_difference_cuda(const Tensor& delta, const Tensor& weight, const Tensor& preactivation,
                                             int64_t activation, double dropout, const MaybeTensor& seed);

// Registers them all.
void add_cuda_operators(torch::stable::detail::StableLibrary& library);

}  // namespace fastalign
