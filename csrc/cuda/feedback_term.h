// The feedback term on CUDA: δ = (signal · Bᵀ) ⊙ f′(kept).

#pragma once

#include <cstdint>

#include "activation.h"
#include "dtype.h"

namespace fastalign {

// Strides count elements. A dense layer's units are a map of (H, 1, 1).
struct FeedbackTerm {
  const void* signal;    // (samples, classes)
  const void* feedback;  // (units, classes)
  const void* kept;      // (samples, channels, height, width): the preactivation, or the output where given_output
  void* delta;           // like kept, contiguous
  int64_t samples;
  int64_t classes;
  int64_t channels;
  int64_t height;
  int64_t width;
  int64_t signal_strides[2];
  int64_t feedback_strides[2];
  int64_t kept_strides[4];
  Activation activation;
  bool given_output;
};

// Computes on a stream (a cudaStream_t) of the current device. Sums in float32, in float64 for float64, in a fixed
// order.
void feedback_term(const FeedbackTerm& term, Dtype dtype, void* stream);

}  // namespace fastalign
