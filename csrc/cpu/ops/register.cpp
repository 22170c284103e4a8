// The CPU kernel of every op of fastalign/ops/schemas.py.

#include "cpu/ops/register.h"

#include <map>

#include "cpu/ops/operators.h"

namespace fastalign {

namespace {

const std::map<std::string, BoxedKernel>& boxed_kernels() {
  static const std::map<std::string, BoxedKernel> kernels{
      {"activation_forward", TORCH_BOX(&activation_forward_cpu)},
      {"activation_backward", TORCH_BOX(&activation_backward_cpu)},
      {"activation_difference", TORCH_BOX(&activation_difference_cpu)},
      {"feedback_term", TORCH_BOX(&feedback_term_cpu)},
      {"feedback_terms", TORCH_BOX(&feedback_terms_cpu)},
      {"modulate_input", TORCH_BOX(&modulate_input_cpu)},
      {"linear_forward", TORCH_BOX(&linear_forward_cpu)},
      {"linear_difference", TORCH_BOX(&linear_difference_cpu)},
      {"linear_update", TORCH_BOX(&linear_update_cpu)},
      {"linear_updates", TORCH_BOX(&linear_updates_cpu)},
      {"optimizer_steps_", TORCH_BOX(&optimizer_steps_cpu)},
      {"linear_steps_", TORCH_BOX(&linear_steps_cpu)},
      {"feedback_steps_", TORCH_BOX(&feedback_steps_cpu)},
      {"dfa_linear_update", TORCH_BOX(&dfa_linear_update_cpu)},
      {"pepita_linear_update", TORCH_BOX(&pepita_linear_update_cpu)},
      {"conv2d_update", TORCH_BOX(&conv2d_update_cpu)},
      {"dfa_conv2d_update", TORCH_BOX(&dfa_conv2d_update_cpu)},
      {"pepita_conv2d_update", TORCH_BOX(&pepita_conv2d_update_cpu)},
      {"cross_entropy", TORCH_BOX(&cross_entropy_cpu)},
      {"max_pool2d_forward", TORCH_BOX(&max_pool2d_forward_cpu)},
      {"max_pool2d_backward", TORCH_BOX(&max_pool2d_backward_cpu)},
      {"max_pool2d_difference", TORCH_BOX(&max_pool2d_difference_cpu)},
  };
  return kernels;
}

}  // namespace

BoxedKernel boxed_kernel(const std::string& op) {
  const auto found = boxed_kernels().find(op);
  return found == boxed_kernels().end() ? nullptr : found->second;
}

STABLE_TORCH_LIBRARY_IMPL(fastalign, CPU, library) {
  for (const auto& [op, kernel] : boxed_kernels()) library.impl(op.c_str(), kernel);
}

}  // namespace fastalign
