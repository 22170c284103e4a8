#include "emulator/bindings/binding.h"

namespace fastalign::emulator {

namespace {

void run_feedback_terms(EmulatedDevice& device, const Array& signal, const std::vector<Array>& feedback,
                        const std::vector<Array>& kept, const cuda::Activity& activity, bool given_output,
                        const std::vector<Array>& deltas) {
  std::vector<cuda::FeedbackTerm> terms;
  for (size_t layer = 0; layer < deltas.size(); ++layer) {
    terms.push_back({device.reads("feedback", view(feedback.at(layer))), device.reads("kept", view(kept.at(layer))),
                     device.writes("delta", view(deltas[layer]))});
  }
  cuda::feedback_terms(device, device.reads("signal", view(signal)), terms, activity, given_output);
}

void feedback_term(EmulatedDevice& device, const Array& signal, const Array& feedback, const Array& kept,
                   int activation, bool given_output, double dropout, const std::optional<Array>& seed,
                   const Array& delta) {
  device.run([&] {
    run_feedback_terms(device, signal, {feedback}, {kept}, emulator::activity(device, activation, dropout, seed),
                       given_output, {delta});
  });
}

void feedback_terms(EmulatedDevice& device, const Array& signal, const std::vector<Array>& feedback,
                    const std::vector<Array>& kept, int activation, bool given_output,
                    const std::vector<Array>& deltas) {
  device.run([&] {
    run_feedback_terms(device, signal, feedback, kept, {static_cast<Activation>(activation)}, given_output, deltas);
  });
}

void modulate_input(EmulatedDevice& device, const Array& x, const Array& error, const Array& projection, double sign,
                    const Array& modulated) {
  device.run([&] {
    cuda::modulate_input(device, device.reads("x", view(x)), device.reads("error", view(error)),
                         device.reads("projection", view(projection)), sign,
                         device.writes("modulated", view(modulated)));
  });
}

const Binding binding([](pybind11::module_& module) {
  module.def("feedback_term", &feedback_term);
  module.def("feedback_terms", &feedback_terms);
  module.def("modulate_input", &modulate_input);
});

}  // namespace

}  // namespace fastalign::emulator
