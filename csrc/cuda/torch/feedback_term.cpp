#include "cuda/feedback_term.h"

#include "cuda/torch/device.h"
#include "cuda/torch/operators.h"

namespace fastalign {

std::optional<Tensor> feedback_term_cuda(const Tensor& signal, const Tensor& feedback, const Tensor& kept,
                                         int64_t activation, bool given_output, double dropout, const MaybeTensor&) {
  const bool together = fit({&kept, &signal, &feedback}) && (kept.dim() == 2 || kept.dim() == 4) &&
                        has_shape(signal, {kept.size(0), -1}) &&
                        has_shape(feedback, {sample_size(kept), signal.size(1)});
  if (!together || dropout != 0) return std::nullopt;
  const bool map = kept.dim() == 4;
  const Tensor delta = empty_like(kept);
  const TorchDevice device(kept);
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
  feedback_term(term, view(kept).dtype, device.stream);
  return delta;
}

}  // namespace fastalign
