#include "cuda/kernels/second_stage.h"
#include "emulator/bindings/binding.h"

namespace fastalign::emulator {

namespace {

using cuda::LinearUpdate;
using cuda::Post;
using cuda::Sink;
using cuda::View;

Sink written(const View& update) { return {.kind = Sink::Kind::write, .target = update}; }

LinearUpdate update_of_given(EmulatedDevice& device, const Array& post, const Array& pre, double scale,
                             const Array& weight_update, const Array& bias_update) {
  return {.post = {.kind = Post::Kind::given, .values = device.reads("post", view(post))},
          .pre = device.reads("pre", view(pre)),
          .scale = scale,
          .weight = written(device.writes("weight_update", view(weight_update))),
          .bias = written(device.writes("bias_update", view_unless_empty(bias_update)))};
}

void linear_update(EmulatedDevice& device, const Array& post, const Array& pre, double scale, bool,
                   const Array& weight_update, const Array& bias_update) {
  device.run(
      [&] { cuda::linear_updates(device, {update_of_given(device, post, pre, scale, weight_update, bias_update)}); });
}

void linear_updates(EmulatedDevice& device, const std::vector<Array>& post, const std::vector<Array>& pre,
                    const std::vector<double>& scale, bool, const std::vector<Array>& results) {
  device.run([&] {
    std::vector<LinearUpdate> updates;
    for (size_t i = 0; i < post.size(); ++i) {
      updates.push_back(update_of_given(device, post[i], pre[i], scale[i], results[2 * i], results[2 * i + 1]));
    }
    cuda::linear_updates(device, updates);
  });
}

// The sinks that take steps of an optimizer on parameters, of which each has as many states as that has.
std::vector<Sink> sinks_of(EmulatedDevice& device, const std::vector<Array>& parameter, const std::vector<Array>& state,
                           int descent, const Array& settings) {
  std::vector<Sink> sinks;
  for (size_t i = 0; i < parameter.size(); ++i) {
    Sink& sink = sinks.emplace_back();
    sink.kind = cuda::kind_of(static_cast<Descent>(descent));
    sink.target = device.writes("parameter", view(parameter[i]));
    sink.settings = static_cast<const Settings*>(device.reads("settings", view(settings)).data);
    const auto states = static_cast<size_t>(states_of[descent]);
    for (size_t j = 0; j < states; ++j) sink.states[j] = device.writes("state", view(state.at(i * states + j)));
  }
  return sinks;
}

void optimizer_steps(EmulatedDevice& device, const std::vector<Array>& parameter, const std::vector<Array>& state,
                     const std::vector<Array>& gradient, int descent, const Array& settings) {
  device.run([&] {
    const std::vector<Sink> sinks = sinks_of(device, parameter, state, descent, settings);
    std::vector<cuda::GradientStep> steps;
    for (size_t i = 0; i < sinks.size(); ++i) {
      steps.push_back({device.reads("gradient", view(gradient.at(i))), sinks[i]});
    }
    cuda::gradient_steps(device, steps);
  });
}

void linear_steps(EmulatedDevice& device, const std::vector<Array>& weight, const std::vector<Array>& bias,
                  const std::vector<Array>& weight_state, const std::vector<Array>& bias_state,
                  const std::vector<Array>& post, const std::vector<Array>& pre, const std::vector<double>& scale,
                  int descent, const Array& settings) {
  device.run([&] {
    const std::vector<Sink> weights = sinks_of(device, weight, weight_state, descent, settings);
    const std::vector<Sink> biases = sinks_of(device, bias, bias_state, descent, settings);
    std::vector<LinearUpdate> updates;
    for (size_t i = 0; i < weights.size(); ++i) {
      updates.push_back({.post = {.kind = Post::Kind::given, .values = device.reads("post", view(post.at(i)))},
                         .pre = device.reads("pre", view(pre.at(i))),
                         .scale = scale.at(i),
                         .weight = weights[i],
                         .bias = biases.empty() ? Sink{} : biases[i]});
    }
    cuda::linear_updates(device, updates);
  });
}

void dfa_linear_update(EmulatedDevice& device, const Array& error, const Array& feedback, const Array& kept,
                       const Array& x, int activation, bool given_output, const Array& weight_update,
                       const Array& bias_update) {
  device.run([&] {
    cuda::linear_updates(device, {{.post = {.kind = Post::Kind::feedback_term,
                                            .values = device.reads("kept", view(kept)),
                                            .signal = device.reads("error", view(error)),
                                            .feedback = device.reads("feedback", view(feedback)),
                                            .activation = static_cast<Activation>(activation),
                                            .given_output = given_output},
                                   .pre = device.reads("x", view(x)),
                                   .scale = 1,
                                   .weight = written(device.writes("weight_update", view(weight_update))),
                                   .bias = written(device.writes("bias_update", view(bias_update)))}});
  });
}

void pepita_linear_update(EmulatedDevice& device, const Array& h, const Array& h_mod, const Array& x_mod,
                          const Array& weight_update, const Array& bias_update) {
  device.run([&] {
    const View activity = device.reads("h", view(h));
    cuda::linear_updates(
        device,
        {{.post = {.kind = Post::Kind::difference, .values = activity, .modulated = device.reads("h_mod", view(h_mod))},
          .pre = device.reads("x_mod", view(x_mod)),
          .scale = activity.sizes[0] > 0 ? 1.0 / static_cast<double>(activity.sizes[0]) : 1.0,
          .weight = written(device.writes("weight_update", view(weight_update))),
          .bias = written(device.writes("bias_update", view(bias_update)))}});
  });
}

template <typename T>
T of(const pybind11::dict& described, const char* name, T otherwise = {}) {
  return described.contains(name) ? described[name].cast<T>() : otherwise;
}

View view_of(const pybind11::dict& described, const char* name) {
  return view(of<std::optional<Array>>(described, name));
}

// A sink as a test describes it; none where it describes nothing.
Sink sink_of(EmulatedDevice& device, const pybind11::dict& described) {
  return {.kind = static_cast<Sink::Kind>(of<int>(described, "kind")),
          .target = device.writes("target", view_of(described, "target")),
          .states = {device.writes("state", view_of(described, "first_state")),
                     device.writes("state", view_of(described, "second_state"))},
          .settings = static_cast<const Settings*>(device.reads("settings", view_of(described, "settings")).data)};
}

// For what no op of torch asks for: other sinks, and updates of several kinds in one call.
void described_updates(EmulatedDevice& device, const std::vector<pybind11::dict>& all) {
  device.run([&] {
    std::vector<LinearUpdate> updates;
    for (const pybind11::dict& one : all) {
      updates.push_back({.post = {.kind = static_cast<Post::Kind>(of<int>(one, "post")),
                                  .values = device.reads("values", view_of(one, "values")),
                                  .modulated = device.reads("modulated", view_of(one, "modulated")),
                                  .signal = device.reads("signal", view_of(one, "signal")),
                                  .feedback = device.reads("feedback", view_of(one, "feedback")),
                                  .activation = static_cast<Activation>(of<int>(one, "activation"))},
                         .pre = device.reads("pre", view_of(one, "pre")),
                         .scale = of<double>(one, "scale", 1),
                         .weight = sink_of(device, of<pybind11::dict>(one, "weight")),
                         .bias = sink_of(device, of<pybind11::dict>(one, "bias"))});
    }
    cuda::linear_updates(device, updates);
  });
}

const Binding binding([](pybind11::module_& module) {
  module.def("linear_update", &linear_update);
  module.def("steps_of_part", &cuda::steps_of_part);
  module.def("linear_updates", &linear_updates);
  module.def("described_updates", &described_updates);
  module.def("optimizer_steps_", &optimizer_steps);
  module.def("linear_steps_", &linear_steps);
  module.def("dfa_linear_update", &dfa_linear_update);
  module.def("pepita_linear_update", &pepita_linear_update);
});

}  // namespace

}  // namespace fastalign::emulator
