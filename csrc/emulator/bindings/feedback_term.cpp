#include "cuda/feedback_term.h"

#include "emulator/bindings/binding.h"

namespace fastalign::emulator {

namespace {

void feedback_term(EmulatedDevice& device, const Array& signal, const Array& feedback, const Array& kept,
                   int activation, bool given_output, double, const std::optional<Array>&, const Array& delta) {
  const cuda::View s = view(signal);
  const cuda::View f = view(feedback);
  const cuda::View k = view(kept);
  const bool map = k.dimensions == 4;
  device.run([&] {
    const fastalign::FeedbackTerm term{
        .signal = device.reads("signal", s).data,
        .feedback = device.reads("feedback", f).data,
        .kept = device.reads("kept", k).data,
        .delta = device.writes("delta", view(delta)).data,
        .samples = k.sizes[0],
        .classes = s.sizes[1],
        .channels = k.sizes[1],
        .height = map ? k.sizes[2] : 1,
        .width = map ? k.sizes[3] : 1,
        .signal_strides = {s.strides[0], s.strides[1]},
        .feedback_strides = {f.strides[0], f.strides[1]},
        .kept_strides = {k.strides[0], k.strides[1], map ? k.strides[2] : 0, map ? k.strides[3] : 0},
        .activation = static_cast<Activation>(activation),
        .given_output = given_output,
    };
    fastalign::feedback_term(term, k.dtype, nullptr);
  });
}

const Binding binding([](pybind11::module_& module) { module.def("feedback_term", &feedback_term); });

}  // namespace

}  // namespace fastalign::emulator
