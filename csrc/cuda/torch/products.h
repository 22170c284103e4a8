// torch's own matrix product on CUDA, by its C interface: found by name, because this binary also loads without CUDA.

#pragma once

#include <torch/csrc/stable/tensor.h>

namespace fastalign {

// result = scale · left · right + keep · result; false where the torch that is loaded has none.
bool multiply_on_cuda(const torch::stable::Tensor& result, const torch::stable::Tensor& left,
                      const torch::stable::Tensor& right, double scale, double keep);

// Whether there is one.
bool multiplies_on_cuda();

}  // namespace fastalign
