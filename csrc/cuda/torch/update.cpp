// The updates of linear layers: as gradients, and as a step of SGD.

#include "cuda/torch/device.h"
#include "cuda/torch/operators.h"

namespace fastalign {

namespace {

// ΔW = scale · Σ post ⊗ pre as a tensor, and Δb, which is empty without a bias.
struct Update {
  Tensor weight, bias;
  cuda::LinearUpdate operation;

  Update(const cuda::Post& post, int64_t units, const Tensor& pre, double scale, bool with_bias)
      : weight(empty(pre, {units, pre.size(1)})),
        bias(empty(pre, {with_bias ? units : 0})),
        operation{.post = post, .pre = view(pre), .scale = scale, .weight = {.target = view(weight)}} {
    if (with_bias) operation.bias.target = view(bias);
  }

  TwoTensors run() const {
    TorchDevice device(weight, Products::matrices);
    cuda::linear_updates(device, {operation});
    return {weight, bias};
  }
};

bool goes_together(const Tensor& post, const Tensor& pre) {
  return fit({&post, &pre}) && has_shape(post, {-1, -1}) && has_shape(pre, {post.size(0), -1});
}

}  // namespace

std::optional<TwoTensors> linear_update_cuda(const Tensor& post, const Tensor& pre, double scale, bool with_bias) {
  if (!goes_together(post, pre)) return std::nullopt;
  return Update({.values = view(post)}, post.size(1), pre, scale, with_bias).run();
}

std::optional<Tensors> linear_updates_cuda(const Tensors& post, const Tensors& pre, const std::vector<double>& scale,
                                           bool with_bias) {
  if (post.empty() || pre.size() != post.size() || scale.size() != post.size()) return std::nullopt;
  for (size_t i = 0; i < post.size(); ++i) {
    if (!goes_together(post[i], pre[i]) || !fit({&post[0], &post[i]})) return std::nullopt;
  }
  TorchDevice device(post[0], Products::matrices);
  Tensors results;
  std::vector<cuda::LinearUpdate> operations;
  for (size_t i = 0; i < post.size(); ++i) {
    const Update update({.values = view(post[i])}, post[i].size(1), pre[i], scale[i], with_bias);
    operations.push_back(update.operation);
    results.insert(results.end(), {update.weight, update.bias});
  }
  cuda::linear_updates(device, operations);
  return results;
}

std::optional<TwoTensors> dfa_linear_update_cuda(const Tensor& error, const Tensor& feedback, const Tensor& kept,
                                                 const Tensor& x, int64_t activation_number, bool given_output) {
  if (!goes_together(kept, x) || !fit({&kept, &error, &feedback}) || !has_shape(error, {kept.size(0), -1}) ||
      !has_shape(feedback, {kept.size(1), error.size(1)})) {
    return std::nullopt;
  }
  const auto function = activity(kept, activation_number);
  if (!function) return std::nullopt;
  const cuda::Post post{.kind = cuda::Post::Kind::feedback_term,
                        .values = view(kept),
                        .signal = view(error),
                        .feedback = view(feedback),
                        .activation = function->activation,
                        .given_output = given_output};
  return Update(post, kept.size(1), x, 1, true).run();
}

std::optional<TwoTensors> pepita_linear_update_cuda(const Tensor& h, const Tensor& h_mod, const Tensor& x_mod) {
  if (!goes_together(h, x_mod) || !fit({&h, &h_mod}) || !same_shape(h, h_mod)) return std::nullopt;
  const cuda::Post post{.kind = cuda::Post::Kind::difference, .values = view(h), .modulated = view(h_mod)};
  const double scale = 1.0 / static_cast<double>(h.size(0) > 0 ? h.size(0) : 1);
  return Update(post, h.size(1), x_mod, scale, true).run();
}

bool linear_sgd_step_cuda(const Tensor& weight, const MaybeTensor& bias, const Tensor& weight_velocity,
                          const MaybeTensor& bias_velocity, const Tensor& post, const Tensor& pre, double scale,
                          double momentum, double weight_decay, double learning_rate) {
  if (!goes_together(post, pre)) return false;
  const auto changes = [&](const Tensor& tensor, std::initializer_list<int64_t> sizes) {
    return fit({&post, &tensor}) && has_shape(tensor, sizes) && tensor.is_contiguous();
  };
  const int64_t units = post.size(1), inputs = pre.size(1);
  if (!changes(weight, {units, inputs}) || !changes(weight_velocity, {units, inputs})) return false;
  if (bias.has_value() != bias_velocity.has_value()) return false;
  if (bias && (!changes(*bias, {units}) || !changes(*bias_velocity, {units}))) return false;
  const auto sink = [&](const MaybeTensor& parameter, const MaybeTensor& velocity) {
    return cuda::Sink{.kind = cuda::Sink::Kind::sgd,
                      .target = view(parameter),
                      .state = view(velocity),
                      .learning_rate = learning_rate,
                      .momentum = momentum,
                      .weight_decay = weight_decay};
  };
  TorchDevice device(weight, Products::matrices);
  cuda::linear_updates(device, {{.post = {.values = view(post)},
                                 .pre = view(pre),
                                 .scale = scale,
                                 .weight = sink(weight, weight_velocity),
                                 .bias = sink(bias, bias_velocity)}});
  return true;
}

}  // namespace fastalign
