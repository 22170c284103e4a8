// The CPU kernels as torch's dispatcher calls them: fastalign/ops/reference.py says what each computes.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace fastalign {

using MaybeTensor = std::optional<torch::stable::Tensor>;
using TwoTensors = std::tuple<torch::stable::Tensor, torch::stable::Tensor>;
using Integers = std::vector<int64_t>;

torch::stable::Tensor activation_forward_cpu(const torch::stable::Tensor& a, int64_t activation, double dropout,
                                             const MaybeTensor& seed);
torch::stable::Tensor activation_backward_cpu(const torch::stable::Tensor& signal, const torch::stable::Tensor& kept,
                                              int64_t activation, bool given_output, double dropout,
                                              const MaybeTensor& seed);
torch::stable::Tensor activation_difference_cpu(const torch::stable::Tensor& a, const torch::stable::Tensor& delta_a,
                                                int64_t activation, double dropout, const MaybeTensor& seed);

torch::stable::Tensor feedback_term_cpu(const torch::stable::Tensor& signal, const torch::stable::Tensor& feedback,
                                        const torch::stable::Tensor& kept, int64_t activation, bool given_output,
                                        double dropout, const MaybeTensor& seed);
std::vector<torch::stable::Tensor> feedback_terms_cpu(const torch::stable::Tensor& signal,
                                                      const std::vector<torch::stable::Tensor>& feedback,
                                                      const std::vector<torch::stable::Tensor>& kept,
                                                      int64_t activation, bool given_output);
torch::stable::Tensor modulate_input_cpu(const torch::stable::Tensor& x, const torch::stable::Tensor& error,
                                         const torch::stable::Tensor& projection, double sign);

TwoTensors linear_forward_cpu(const torch::stable::Tensor& x, const torch::stable::Tensor& weight,
                              const MaybeTensor& bias, int64_t activation, double dropout, const MaybeTensor& seed,
                              bool keep_preactivation);
torch::stable::Tensor linear_difference_cpu(const torch::stable::Tensor& delta, const torch::stable::Tensor& weight,
                                            const torch::stable::Tensor& preactivation, int64_t activation,
                                            double dropout, const MaybeTensor& seed);

TwoTensors linear_update_cpu(const torch::stable::Tensor& post, const torch::stable::Tensor& pre, double scale,
                             bool with_bias);
std::vector<torch::stable::Tensor> linear_updates_cpu(const std::vector<torch::stable::Tensor>& post,
                                                      const std::vector<torch::stable::Tensor>& pre,
                                                      const std::vector<double>& scale, bool with_bias);
TwoTensors dfa_linear_update_cpu(const torch::stable::Tensor& error, const torch::stable::Tensor& feedback,
                                 const torch::stable::Tensor& kept, const torch::stable::Tensor& x, int64_t activation,
                                 bool given_output);
TwoTensors pepita_linear_update_cpu(const torch::stable::Tensor& h, const torch::stable::Tensor& h_mod,
                                    const torch::stable::Tensor& x_mod);

// settings (7) as csrc/common/descent.h orders them.
void optimizer_steps_cpu(std::vector<torch::stable::Tensor> parameter, std::vector<torch::stable::Tensor> state,
                         const std::vector<torch::stable::Tensor>& gradient, int64_t descent,
                         const torch::stable::Tensor& settings);
void linear_steps_cpu(std::vector<torch::stable::Tensor> weight, std::vector<torch::stable::Tensor> bias,
                      std::vector<torch::stable::Tensor> weight_state, std::vector<torch::stable::Tensor> bias_state,
                      const std::vector<torch::stable::Tensor>& post, const std::vector<torch::stable::Tensor>& pre,
                      const std::vector<double>& scale, int64_t descent, const torch::stable::Tensor& settings);
void feedback_steps_cpu(std::vector<torch::stable::Tensor> weight, std::vector<torch::stable::Tensor> bias,
                        std::vector<torch::stable::Tensor> weight_state, std::vector<torch::stable::Tensor> bias_state,
                        const torch::stable::Tensor& signal, const std::vector<torch::stable::Tensor>& feedback,
                        const std::vector<torch::stable::Tensor>& kept, const std::vector<torch::stable::Tensor>& pre,
                        int64_t activation, bool given_output, const std::vector<double>& scale, int64_t descent,
                        const torch::stable::Tensor& settings);

TwoTensors conv2d_update_cpu(const torch::stable::Tensor& post, const torch::stable::Tensor& pre,
                             const Integers& kernel_size, const Integers& stride, const Integers& padding,
                             const Integers& dilation, int64_t groups, double scale, bool with_bias);
TwoTensors dfa_conv2d_update_cpu(const torch::stable::Tensor& error, const torch::stable::Tensor& feedback,
                                 const torch::stable::Tensor& kept, const torch::stable::Tensor& x, int64_t activation,
                                 bool given_output, const Integers& kernel_size, const Integers& stride,
                                 const Integers& padding, const Integers& dilation, int64_t groups);
TwoTensors pepita_conv2d_update_cpu(const torch::stable::Tensor& h, const torch::stable::Tensor& h_mod,
                                    const torch::stable::Tensor& x_mod, const Integers& kernel_size,
                                    const Integers& stride, const Integers& padding, const Integers& dilation,
                                    int64_t groups);

// labels (N), int64; a label of −100 leaves its sample out.
TwoTensors cross_entropy_cpu(const torch::stable::Tensor& outputs, const torch::stable::Tensor& labels, bool mean);

torch::stable::Tensor max_pool2d_forward_cpu(const torch::stable::Tensor& h, const Integers& kernel_size,
                                             const Integers& stride, const Integers& padding, const Integers& dilation,
                                             bool ceil_mode);
torch::stable::Tensor max_pool2d_backward_cpu(const torch::stable::Tensor& signal, const torch::stable::Tensor& h,
                                              const torch::stable::Tensor& kept, int64_t activation, bool given_output,
                                              double dropout, const MaybeTensor& seed, const Integers& kernel_size,
                                              const Integers& stride, const Integers& padding, const Integers& dilation,
                                              bool ceil_mode);
torch::stable::Tensor max_pool2d_difference_cpu(const torch::stable::Tensor& h, const torch::stable::Tensor& delta_h,
                                                const Integers& kernel_size, const Integers& stride,
                                                const Integers& padding, const Integers& dilation, bool ceil_mode);

}  // namespace fastalign
