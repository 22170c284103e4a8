// The CUDA kernel of every op as torch's dispatcher calls it: fastalign/ops/reference.py says what each computes. What
// a kernel does not take (shapes that do not go together, other dtypes, a device that cannot run it) goes to the
// reference: then it gives nothing, or false.

#pragma once

#include <torch/csrc/stable/library.h>

#include "cuda/torch/tensors.h"

namespace fastalign {

std::optional<Tensor> activation_forward_cuda(const Tensor& a, int64_t activation, double dropout,
                                              const MaybeTensor& seed);
std::optional<Tensor> activation_backward_cuda(const Tensor& signal, const Tensor& kept, int64_t activation,
                                               bool given_output, double dropout, const MaybeTensor& seed);
std::optional<Tensor> activation_difference_cuda(const Tensor& a, const Tensor& delta_a, int64_t activation,
                                                 double dropout, const MaybeTensor& seed);

std::optional<Tensor> feedback_term_cuda(const Tensor& signal, const Tensor& feedback, const Tensor& kept,
                                         int64_t activation, bool given_output, double dropout,
                                         const MaybeTensor& seed);
std::optional<Tensors> feedback_terms_cuda(const Tensor& signal, const Tensors& feedback, const Tensors& kept,
                                           int64_t activation, bool given_output);
std::optional<Tensor> modulate_input_cuda(const Tensor& x, const Tensor& error, const Tensor& projection, double sign);

std::optional<TwoTensors> linear_forward_cuda(const Tensor& x, const Tensor& weight, const MaybeTensor& bias,
                                              int64_t activation, double dropout, const MaybeTensor& seed,
                                              bool keep_preactivation);
std::optional<Tensor> linear_difference_cuda(const Tensor& delta, const Tensor& weight, const Tensor& preactivation,
                                             int64_t activation, double dropout, const MaybeTensor& seed);

std::optional<TwoTensors> linear_update_cuda(const Tensor& post, const Tensor& pre, double scale, bool with_bias);
std::optional<Tensors> linear_updates_cuda(const Tensors& post, const Tensors& pre, const std::vector<double>& scale,
                                           bool with_bias);
std::optional<TwoTensors> dfa_linear_update_cuda(const Tensor& error, const Tensor& feedback, const Tensor& kept,
                                                 const Tensor& x, int64_t activation, bool given_output);
std::optional<TwoTensors> pepita_linear_update_cuda(const Tensor& h, const Tensor& h_mod, const Tensor& x_mod);
bool optimizer_steps_cuda(const Tensors& parameter, const Tensors& state, const Tensors& gradient, int64_t descent,
                          const Tensor& settings);
bool linear_steps_cuda(const Tensors& weight, const Tensors& bias, const Tensors& weight_state,
                       const Tensors& bias_state, const Tensors& post, const Tensors& pre,
                       const std::vector<double>& scale, int64_t descent, const Tensor& settings);

std::optional<TwoTensors> conv2d_update_cuda(const Tensor& post, const Tensor& pre, const Integers& kernel_size,
                                             const Integers& stride, const Integers& padding, const Integers& dilation,
                                             int64_t groups, double scale, bool with_bias);
std::optional<TwoTensors> dfa_conv2d_update_cuda(const Tensor& error, const Tensor& feedback, const Tensor& kept,
                                                 const Tensor& x, int64_t activation, bool given_output,
                                                 const Integers& kernel_size, const Integers& stride,
                                                 const Integers& padding, const Integers& dilation, int64_t groups);
std::optional<TwoTensors> pepita_conv2d_update_cuda(const Tensor& h, const Tensor& h_mod, const Tensor& x_mod,
                                                    const Integers& kernel_size, const Integers& stride,
                                                    const Integers& padding, const Integers& dilation, int64_t groups);

std::optional<Tensor> max_pool2d_difference_cuda(const Tensor& h, const Tensor& delta_h, const Integers& kernel_size,
                                                 const Integers& stride, const Integers& padding,
                                                 const Integers& dilation, bool ceil_mode);

std::optional<TwoTensors> cross_entropy_cuda(const Tensor& outputs, const Tensor& labels, bool mean);

// Registers them all.
void add_cuda_operators(torch::stable::detail::StableLibrary& library);

}  // namespace fastalign
