#include "cuda/second_stage.h"
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

void linear_sgd_step(EmulatedDevice& device, const Array& weight, const std::optional<Array>& bias,
                     const Array& weight_velocity, const std::optional<Array>& bias_velocity, const Array& post,
                     const Array& pre, double scale, double momentum, double weight_decay, double learning_rate) {
  const auto sink = [&](const View& parameter, const View& velocity) {
    return Sink{.kind = Sink::Kind::sgd,
                .target = device.writes("parameter", parameter),
                .state = device.writes("velocity", velocity),
                .learning_rate = learning_rate,
                .momentum = momentum,
                .weight_decay = weight_decay};
  };
  device.run([&] {
    cuda::linear_updates(device, {{.post = {.kind = Post::Kind::given, .values = device.reads("post", view(post))},
                                   .pre = device.reads("pre", view(pre)),
                                   .scale = scale,
                                   .weight = sink(view(weight), view(weight_velocity)),
                                   .bias = sink(view(bias), view(bias_velocity))}});
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
          .state = device.writes("state", view_of(described, "state")),
          .learning_rate = of<double>(described, "learning_rate"),
          .momentum = of<double>(described, "momentum"),
          .weight_decay = of<double>(described, "weight_decay"),
          .epsilon = of<double>(described, "epsilon")};
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
  module.def("linear_sgd_step_", &linear_sgd_step);
  module.def("dfa_linear_update", &dfa_linear_update);
  module.def("pepita_linear_update", &pepita_linear_update);
});

}  // namespace

}  // namespace fastalign::emulator
