// What the updates of linear and convolutional layers share: their postsynaptic terms and their bias.

#pragma once

#include "cpu/ops/tensors.h"

namespace fastalign {

// (e Bᵀ) ⊙ f′(a), shaped like kept, contiguous.
Tensor feedback_term(const Tensor& error, const Tensor& feedback, const Tensor& kept, int64_t activation,
                     bool given_output, ScalarType dtype);

// h − h_mod, contiguous.
Tensor difference(const Tensor& h, const Tensor& h_mod, ScalarType dtype);

// scale · postᵀ pre into a sink, and scale · Σ post into another where there is one.
struct LinearStep {
  Tensor post;  // (samples, rows)
  Tensor pre;   // (samples, columns)
  double scale;
  Sink weight{};  // (rows, columns)
  Sink bias{};    // (rows), or without a target
};

// The dtype of the terms of an update with so many units, which is written or which parameters descend: the wide one,
// or bfloat16 where the library's product of it is faster.
ScalarType update_dtype(const Tensor& pre, int64_t units, bool descends);

// Terms of one dtype, as `update_dtype` has it, into sinks of their dtype or of halves.
void run_linear_steps(const std::vector<LinearStep>& steps);

// scale · Σ post over all but its second dimension.
Tensor bias_update(const Tensor& post, double scale, ScalarType dtype);

// The empty tensor in place of a bias update.
Tensor no_bias_update(ScalarType dtype);

}  // namespace fastalign
