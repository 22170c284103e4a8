// The update of a convolution by its kernel: the patches are addressed in place, the bias is updated in the same pass,
// and the sinks take the sums as they come.

#pragma once

#include <cstdint>

#include "cuda/ops/operations.h"

namespace fastalign::cuda {

// Maps (samples, channels, height, width). Strides count bytes.
struct Maps {
  const void* data{};
  int64_t channels{};
  int samples{}, height{}, width{};
  int64_t strides[4]{};
  bool vectors{};  // the positions of each channel lie side by side, in whole 16 bytes
};

// What is summed: post − modulated, where there is the latter, times the patches of pre.
struct PatchSums {
  Maps post{}, modulated{}, pre{};
  Convolution convolution{};
};

PatchSums patch_sums(const ConvolutionUpdate& update);

// Of a post that is given or a difference, and not empty: one launch, and a second stage where the sum is split.
void fused_convolution_update(Device& device, const ConvolutionUpdate& update);

}  // namespace fastalign::cuda
