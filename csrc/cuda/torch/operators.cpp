// Every op that has a CUDA kernel; the others run on the reference.

#include "cuda/torch/operators.h"

#include "cuda/ops/library.h"
#include "python/reference.h"

namespace fastalign {

void add_cuda_operators(torch::stable::detail::StableLibrary& library) {
  add_operator<"activation_forward", &activation_forward_cuda>(library);
  add_operator<"activation_backward", &activation_backward_cuda>(library);
  add_operator<"activation_difference", &activation_difference_cuda>(library);
  add_operator<"feedback_term", &feedback_term_cuda>(library);
  add_operator<"feedback_terms", &feedback_terms_cuda>(library);
  add_operator<"modulate_input", &modulate_input_cuda>(library);
  add_operator<"linear_forward", &linear_forward_cuda>(library);
  add_operator<"linear_difference", &linear_difference_cuda>(library);
  add_operator<"linear_update", &linear_update_cuda>(library);
  add_operator<"linear_updates", &linear_updates_cuda>(library);
  add_operator<"optimizer_steps_", &optimizer_steps_cuda>(library);
  add_operator<"linear_steps_", &linear_steps_cuda>(library);
  add_operator<"dfa_linear_update", &dfa_linear_update_cuda>(library);
  add_operator<"pepita_linear_update", &pepita_linear_update_cuda>(library);
  add_operator<"conv2d_update", &conv2d_update_cuda>(library);
  add_operator<"dfa_conv2d_update", &dfa_conv2d_update_cuda>(library);
  add_operator<"pepita_conv2d_update", &pepita_conv2d_update_cuda>(library);
  add_operator<"cross_entropy", &cross_entropy_cuda>(library);
  add_operator<"max_pool2d_difference", &max_pool2d_difference_cuda>(library);
}

}  // namespace fastalign
