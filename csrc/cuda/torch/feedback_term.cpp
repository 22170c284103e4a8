#include "cuda/feedback_term.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include "cuda/library.h"
#include "cuda/torch/binding.h"
#include "reference.h"
#include "stream.h"

namespace fastalign {

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::optional<Dtype> dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return Dtype::float64;
    case ScalarType::Float:
      return Dtype::float32;
    case ScalarType::BFloat16:
      return Dtype::bfloat16;
    case ScalarType::Half:
      return Dtype::float16;
    default:
      return std::nullopt;
  }
}

// Whether the tensors go together as the kernel reads them; where not, the reference says what is wrong.
bool fits(const Tensor& signal, const Tensor& feedback, const Tensor& kept) {
  if (signal.dim() != 2 || feedback.dim() != 2 || (kept.dim() != 2 && kept.dim() != 4)) return false;
  for (const Tensor* other : {&signal, &feedback}) {
    if (other->scalar_type() != kept.scalar_type() || other->get_device_index() != kept.get_device_index())
      return false;
  }
  const int64_t units = kept.dim() == 4 ? kept.size(1) * kept.size(2) * kept.size(3) : kept.size(1);
  return signal.size(0) == kept.size(0) && feedback.size(0) == units && feedback.size(1) == signal.size(1);
}

}  // namespace

Tensor feedback_term_cuda(const Tensor& signal, const Tensor& feedback, const Tensor& kept, int64_t activation,
                          bool given_output, double dropout, const std::optional<Tensor>& seed) {
  const std::optional<Dtype> dtype = dtype_of(kept);
  if (!dtype || dropout != 0 || !fits(signal, feedback, kept) || !cuda_usable(kept.get_device_index())) {
    return call_reference("feedback_term", signal, feedback, kept, activation, given_output, dropout, seed);
  }
  const bool map = kept.dim() == 4;
  Tensor delta = torch::stable::new_empty(kept, kept.sizes());
  const torch::stable::accelerator::DeviceGuard guard(kept.get_device_index());
  const FeedbackTerm term{
      .signal = signal.const_data_ptr(),
      .feedback = feedback.const_data_ptr(),
      .kept = kept.const_data_ptr(),
      .delta = delta.mutable_data_ptr(),
      .samples = kept.size(0),
      .classes = signal.size(1),
      .channels = kept.size(1),
      .height = map ? kept.size(2) : 1,
      .width = map ? kept.size(3) : 1,
      .signal_strides = {signal.stride(0), signal.stride(1)},
      .feedback_strides = {feedback.stride(0), feedback.stride(1)},
      .kept_strides = {kept.stride(0), kept.stride(1), map ? kept.stride(2) : 0, map ? kept.stride(3) : 0},
      .activation = static_cast<Activation>(activation),
      .given_output = given_output,
  };
  feedback_term(term, *dtype, current_cuda_stream(kept.get_device_index()));
  return delta;
}

}  // namespace fastalign
