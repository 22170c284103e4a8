// Every op on CUDA, free of torch: fastalign/ops/reference.py says what each computes. The bindings of torch and of the
// emulator make the views, allocate the results and call these; a `.cpp` file beside the kernels carries each out.
//
// All tensors of a call are on one device, of one dtype, of shapes that go together; results are contiguous, the others
// of any strides. Nothing is allocated or awaited but through the Device. Sums are taken in float32, or in float64 for
// float64, in a fixed order. Empty results launch nothing.

#pragma once

#include <vector>

#include "common/activation.h"
#include "common/descent.h"
#include "common/epilogue.h"
#include "cuda/ops/device.h"
#include "cuda/ops/view.h"

namespace fastalign::cuda {

// An activation after inverted dropout's factors; `seed` (1) is an int64 tensor on the device.
struct Activity {
  Activation activation{};
  Dropout dropout{};  // its key is read from the seed
  View seed{};
};

// Elementwise, (…): h = f(a); δ = s ⊙ f′(a); Δh = f(a + Δa) − f(a).
void activation_forward(Device& device, const View& a, const Activity& activity, const View& h);
void activation_backward(Device& device, const View& signal, const View& kept, const Activity& activity,
                         bool given_output, const View& delta);
void activation_difference(Device& device, const View& a, const View& delta_a, const Activity& activity,
                           const View& delta_h);

// δ = (signal · Bᵀ) ⊙ f′(kept): signal (N, C), B (H, C), kept and δ (N, H) or (N, Co, Ho, Wo).
struct FeedbackTerm {
  View feedback{};
  View kept{};
  View delta{};
};
// All layers that one signal reaches, in one launch where C is small.
void feedback_terms(Device& device, const View& signal, const std::vector<FeedbackTerm>& terms,
                    const Activity& activity, bool given_output);

// x + sign · e Fᵀ: x (N, …), e (N, C), F (D, C).
void modulate_input(Device& device, const View& x, const View& error, const View& projection, double sign,
                    const View& modulated);

// h = f(x Wᵀ + b): x (N, K), W (H, K), b (H) or none, h (N, H); the preactivation is stored too where there is room.
void linear_forward(Device& device, const View& x, const View& weight, const View& bias, const Activity& activity,
                    const View& h, const View& preactivation);

// Δh = f(a + Δ Wᵀ) − f(a): Δ (N, K), W (H, K), a and Δh (N, H).
void linear_difference(Device& device, const View& delta, const View& weight, const View& preactivation,
                       const Activity& activity, const View& delta_h);

// The postsynaptic term of an update, (N, H) or (N, Co, Ho, Wo), formed while it is loaded.
struct Post {
  enum class Kind { given, difference, feedback_term };
  Kind kind{};
  View values{};     // given: δ, or Δh; difference: h; feedback_term: what the activation kept
  View modulated{};  // difference: h_mod, post = h − h_mod in float32
  View signal{};     // feedback_term: (N, C)
  View feedback{};   // feedback_term: (H, C), post = (signal · Bᵀ) ⊙ f′(kept)
  Activation activation{};
  bool given_output{};
};

// What becomes of an update ΔW = Σ post ⊗ pre, scaled; all tensors contiguous and shaped like the update.
struct Sink {
  enum class Kind : int64_t { write, accumulate, sgd, momentum, nesterov, rmsprop, adam, adamw };
  Kind kind{};
  View target{};     // write: ΔW; accumulate: + ΔW; else the parameter, which takes a step of fastalign/ops/descent.py
  View states[2]{};  // as many as the optimizer has
  const Settings* settings{};  // its numbers, on the device
};

// The step of an optimizer.
inline Sink::Kind kind_of(Descent descent) {
  return static_cast<Sink::Kind>(static_cast<int64_t>(Sink::Kind::sgd) + static_cast<int64_t>(descent));
}

// ΔW = scale · Σ post ⊗ pre (H, K) over the batch, and Δb = scale · Σ post (H) in the same pass.
struct LinearUpdate {
  Post post{};
  View pre{};  // (N, K)
  double scale{};
  Sink weight{};
  Sink bias{};  // without a target: none
};
// Of all layers that it is given: in one launch for those of one kind.
void linear_updates(Device& device, const std::vector<LinearUpdate>& updates);

// ΔW of a sink is a gradient that is there, in the dtype of the sink's tensors or of their sums.
struct GradientStep {
  View gradient{};
  Sink sink{};
};
// Of all parameters that it is given, in one launch; gradients that are not contiguous are copied first.
void gradient_steps(Device& device, const std::vector<GradientStep>& steps);

// ΔK = scale · Σ post ⊗ patch (Co, Ci / groups, kh, kw) over batch and positions, and Δb = scale · Σ post (Co).
struct Convolution {
  int64_t kernel[2]{1, 1}, stride[2]{1, 1}, padding[2]{}, dilation[2]{1, 1};
  int64_t groups{1};
};
struct ConvolutionUpdate {
  Post post{};
  View pre{};  // (N, Ci, Hi, Wi), whose patches are addressed in place
  Convolution convolution{};
  double scale{};
  Sink weight{};
  Sink bias{};
};
void convolution_update(Device& device, const ConvolutionUpdate& update);

// loss = −Σ log softmax(outputs)[label] (1), in the dtype of sums, and its gradient softmax − one-hot: outputs and
// gradient (N, C), labels (N) int64, of which −100 leaves its sample out; with `mean` both divided by how many count.
// Of any other label that is no class, the device is stopped.
void cross_entropy(Device& device, const View& outputs, const View& labels, bool mean, const View& loss,
                   const View& gradient);

// pool(h + Δh) − pool(h): (N, C, H, W).
struct Pooling {
  int64_t kernel[2]{}, stride[2]{}, padding[2]{}, dilation[2]{};
};
void max_pool2d_difference(Device& device, const View& h, const View& delta_h, const Pooling& pooling,
                           const View& difference);

}  // namespace fastalign::cuda
