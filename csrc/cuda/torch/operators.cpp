// Every op that has a CUDA kernel; the others run on the reference.

#include "cuda/torch/operators.h"

#include "cuda/library.h"
#include "reference.h"

namespace fastalign {

void add_cuda_operators(torch::stable::detail::StableLibrary& library) {
  add_operator<"feedback_term", &feedback_term_cuda>(library);
  add_operator<"linear_forward", &linear_forward_cuda>(library);
  add_operator<"linear_difference", &linear_difference_cuda>(library);
}

}  // namespace fastalign
