// The steps of optimizers: on parameters, and on linear layers whose updates they never see as tensors.

#include <utility>

#include "cpu/dispatch.h"
#include "cpu/ops/operators.h"
#include "cpu/ops/update.h"

namespace fastalign {

namespace {

Settings settings_from(const Tensor& tensor) {
  FASTALIGN_CHECK(tensor.scalar_type() == ScalarType::Double && tensor.is_cpu(),
                  "settings: expected dtype float64 on the CPU");
  check_shape("settings", tensor, {number_of_settings});
  check_memory(tensor);
  const double* values = static_cast<const double*>(tensor.const_data_ptr());
  const auto value = [&](int64_t i) { return values[i * tensor.stride(0)]; };
  return {value(0), value(1), value(2), value(3), value(4), value(5), value(6)};
}

// Parameters and their states as kernels take them: row-major, those of other strides as copies that are written back.
class Parameters {
 public:
  Parameters(const char* name, const std::vector<Tensor>& parameters, const std::vector<Tensor>& states,
             int64_t descent, const Settings& settings) {
    FASTALIGN_CHECK(descent >= 0 && descent < static_cast<int64_t>(std::size(states_of)),
                    "descent: expected a number of fastalign.ops.descent.Descent, got ", descent);
    const size_t each = states_of[descent];
    FASTALIGN_CHECK(states.size() == each * parameters.size(), "state: expected ", each, " tensors for each ", name,
                    ", got ", states.size(), " for ", parameters.size());
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Tensor& parameter = parameters[i];
      Sink& sink = sinks.emplace_back();
      sink = {.target = changed(parameter), .descent = static_cast<Descent>(descent), .settings = &settings};
      for (size_t j = 0; j < each; ++j) {
        const Tensor& state = states[i * each + j];
        check_alike({&parameter, &state});
        check_same_shape("state", state, parameter);
        sink.states[j] = changed(state).data;
      }
    }
  }

  void write_back() {
    for (auto& [given, copy] : copies_) torch::stable::copy_(given, copy);
  }

  std::vector<Sink> sinks;

 private:
  Output changed(const Tensor& tensor) {
    if (tensor.is_contiguous()) return output(tensor);
    return output(copies_.emplace_back(tensor, row_major(tensor)).second);
  }

  std::vector<std::pair<Tensor, Tensor>> copies_;
};

// A sink's tensors from so many bytes on.
Sink from(Sink sink, int64_t bytes) {
  for (void** data : {&sink.target.data, &sink.states[0], &sink.states[1]}) {
    if (*data != nullptr) *data = static_cast<char*>(*data) + bytes;
  }
  return sink;
}

// The units of a layer in parts. A thread forms the δ of one, which then steps, so that there is never all of it.
void run_in_parts(const Tensor& signal, Tensor feedback, Tensor kept, int64_t activation, bool given_output,
                  const LinearStep& step) {
  constexpr int64_t block = 8;  // units
  // Numbers of a part: the library prepares each of its products of halves anew.
  const int64_t worth_a_call = is_half(step.pre) ? 65536 : 8192;
  const int64_t samples = kept.size(0), units = kept.size(1), inputs = step.pre.size(1), size = kept.element_size();
  // All threads together hold less than a quarter of δ.
  const int64_t held = units * 2 / (9 * int64_t(torch::stable::get_num_threads()));
  const int64_t blocks = (std::max(held, worth_a_call / (samples + 1)) + block / 2) / block;
  const int64_t part = std::max(blocks, int64_t(1)) * block;
  const int64_t grain = std::max(part / block, worth_a_thread / (samples * inputs * block + 1));
  parallel((units + block - 1) / block, grain, [&](int64_t begin, int64_t end) {
    const int64_t last = std::min(end * block, units);
    for (int64_t first = begin * block; first < last; first += part) {
      const int64_t count = std::min(part, last - first);
      const Tensor delta =
          feedback_term(signal, torch::stable::narrow(feedback, 0, first, count),
                        torch::stable::narrow(kept, 1, first, count), activation, given_output, kept.scalar_type());
      run_linear_steps({{in_dtype(delta, step.pre.scalar_type()), step.pre, step.scale,
                         from(step.weight, first * inputs * size), from(step.bias, first * size)}});
    }
  });
}

}  // namespace

void optimizer_steps_cpu(std::vector<Tensor> parameter, std::vector<Tensor> state, const std::vector<Tensor>& gradient,
                         int64_t descent, const Tensor& settings) {
  const Settings numbers = settings_from(settings);
  Parameters parameters("parameter", parameter, state, descent, numbers);
  FASTALIGN_CHECK(gradient.size() == parameter.size(), "gradient: expected ", parameter.size(),
                  " tensors, as many as parameters, got ", gradient.size());
  std::vector<Tensor> gradients;
  std::vector<int64_t> first_block{0};
  for (size_t i = 0; i < parameter.size(); ++i) {
    const bool is_wide = gradient[i].scalar_type() == wide_dtype(parameter[i]);
    check_alike({is_wide ? &gradient[i] : &parameter[i], &gradient[i]});
    check_same_shape("gradient", gradient[i], parameter[i]);
    gradients.push_back(row_major(gradient[i]));
    first_block.push_back(first_block.back() + (gradient[i].numel() + elementwise_block - 1) / elementwise_block);
  }
  const Kernels& kernels = cpu_kernels();
  parallel(first_block, 4, [&](size_t i, int64_t begin, int64_t end) {
    const int64_t last = std::min(end * elementwise_block, gradients[i].numel());
    kernels.descend(parameters.sinks[i], input(gradients[i]), 1, begin * elementwise_block, last);
  });
  parameters.write_back();
}

void linear_steps_cpu(std::vector<Tensor> weight, std::vector<Tensor> bias, std::vector<Tensor> weight_state,
                      std::vector<Tensor> bias_state, const std::vector<Tensor>& post, const std::vector<Tensor>& pre,
                      const std::vector<double>& scale, int64_t descent, const Tensor& settings) {
  const size_t layers = weight.size();
  FASTALIGN_CHECK(post.size() == layers && pre.size() == layers && scale.size() == layers,
                  "expected as many of weight, post, pre and scale");
  FASTALIGN_CHECK(bias.empty() || bias.size() == layers, "bias: expected one of each layer, or of none, got ",
                  bias.size(), " for ", layers);
  const Settings numbers = settings_from(settings);
  Parameters weights("weight", weight, weight_state, descent, numbers);
  Parameters biases("bias", bias, bias_state, descent, numbers);
  std::vector<LinearStep> steps;
  for (size_t i = 0; i < layers; ++i) {
    check_alike({&weight[0], &weight[i], &post[i], &pre[i], bias.empty() ? &weight[i] : &bias[i]});
    check_shape("post", post[i], {-1, -1});
    check_shape("pre", pre[i], {post[i].size(0), -1});
    check_shape("weight", weight[i], {post[i].size(1), pre[i].size(1)});
    if (!bias.empty()) check_shape("bias", bias[i], {post[i].size(1)});
    const ScalarType dtype = update_dtype(pre[i], post[i].size(1), /*descends=*/true);
    steps.push_back({in_dtype(post[i], dtype), in_dtype(pre[i], dtype), scale[i], weights.sinks[i],
                     bias.empty() ? Sink{} : biases.sinks[i]});
  }
  run_linear_steps(steps);
  weights.write_back();
  biases.write_back();
}

void feedback_steps_cpu(std::vector<Tensor> weight, std::vector<Tensor> bias, std::vector<Tensor> weight_state,
                        std::vector<Tensor> bias_state, const Tensor& signal, const std::vector<Tensor>& feedback,
                        const std::vector<Tensor>& kept, const std::vector<Tensor>& pre, int64_t activation,
                        bool given_output, const std::vector<double>& scale, int64_t descent, const Tensor& settings) {
  const size_t layers = weight.size();
  FASTALIGN_CHECK(feedback.size() == layers && kept.size() == layers && pre.size() == layers && scale.size() == layers,
                  "expected as many of weight, feedback, kept, pre and scale");
  FASTALIGN_CHECK(bias.empty() || bias.size() == layers, "bias: expected one of each layer, or of none, got ",
                  bias.size(), " for ", layers);
  activation_of(activation);
  const Settings numbers = settings_from(settings);
  Parameters weights("weight", weight, weight_state, descent, numbers);
  Parameters biases("bias", bias, bias_state, descent, numbers);
  for (size_t i = 0; i < layers; ++i) {
    check_alike(
        {&weight[0], &weight[i], &signal, &feedback[i], &kept[i], &pre[i], bias.empty() ? &weight[i] : &bias[i]});
    check_shape("kept", kept[i], {-1, -1});
    check_shape("signal", signal, {kept[i].size(0), -1});
    check_shape("feedback", feedback[i], {kept[i].size(1), signal.size(1)});
    check_shape("pre", pre[i], {kept[i].size(0), -1});
    check_shape("weight", weight[i], {kept[i].size(1), pre[i].size(1)});
    if (!bias.empty()) check_shape("bias", bias[i], {kept[i].size(1)});
  }
  for (size_t i = 0; i < layers; ++i) {
    const Sink none{}, &bias_sink = bias.empty() ? none : biases.sinks[i];
    const ScalarType dtype = update_dtype(pre[i], kept[i].size(1), /*descends=*/true);
    run_in_parts(signal, feedback[i], kept[i], activation, given_output,
                 {{}, in_dtype(pre[i], dtype), scale[i], weights.sinks[i], bias_sink});
  }
  weights.write_back();
  biases.write_back();
}

}  // namespace fastalign
