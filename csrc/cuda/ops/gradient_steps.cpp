// The steps of optimizers by gradients that are there.

#include "cuda/kernels/elementwise.h"
#include "cuda/kernels/second_stage.h"
#include "cuda/ops/operations.h"

namespace fastalign::cuda {

namespace {

// The gradient itself where it is contiguous, else a copy that is.
const void* contiguous(Device& device, const View& gradient, int64_t elements) {
  View copy = gradient;
  int64_t stride = 1;
  bool is_contiguous = true;
  for (int i = gradient.dimensions - 1; i >= 0; --i) {
    is_contiguous = is_contiguous && (gradient.sizes[i] == 1 || gradient.strides[i] == stride);
    copy.strides[i] = stride;
    stride *= gradient.sizes[i];
  }
  if (is_contiguous || elements == 0) return gradient.data;
  copy.data = device.scratch(static_cast<size_t>(elements * bytes_of(gradient.dtype)));
  elementwise(device, gradient, epilogue_of(Finish::scale, {}, copy));
  return copy.data;
}

}  // namespace

void gradient_steps(Device& device, const std::vector<GradientStep>& steps) {
  if (steps.empty()) return;
  const Dtype dtype = steps.front().sink.target.dtype;
  std::vector<SplitSum> passes;
  for (const auto& [gradient, sink] : steps) {
    int64_t elements = 1;
    for (int i = 0; i < gradient.dimensions; ++i) elements *= gradient.sizes[i];
    passes.push_back({.parts = contiguous(device, gradient, elements),
                      .number = 1,
                      .elements = elements,
                      .scale = 1,
                      .sink = sink,
                      .narrow = gradient.dtype == dtype});
  }
  second_stage(device, passes, dtype);
}

}  // namespace fastalign::cuda
