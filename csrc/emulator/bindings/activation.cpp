#include "emulator/bindings/binding.h"

namespace fastalign::emulator {

namespace {

void activation_forward(EmulatedDevice& device, const Array& a, int activation, double dropout,
                        const std::optional<Array>& seed, const Array& h) {
  device.run([&] {
    cuda::activation_forward(device, device.reads("a", view(a)), emulator::activity(device, activation, dropout, seed),
                             device.writes("h", view(h)));
  });
}

void activation_backward(EmulatedDevice& device, const Array& signal, const Array& kept, int activation,
                         bool given_output, double dropout, const std::optional<Array>& seed, const Array& delta) {
  device.run([&] {
    cuda::activation_backward(device, device.reads("signal", view(signal)), device.reads("kept", view(kept)),
                              emulator::activity(device, activation, dropout, seed), given_output,
                              device.writes("delta", view(delta)));
  });
}

void activation_difference(EmulatedDevice& device, const Array& a, const Array& delta_a, int activation, double dropout,
                           const std::optional<Array>& seed, const Array& delta_h) {
  device.run([&] {
    cuda::activation_difference(device, device.reads("a", view(a)), device.reads("delta_a", view(delta_a)),
                                emulator::activity(device, activation, dropout, seed),
                                device.writes("delta_h", view(delta_h)));
  });
}

const Binding binding([](pybind11::module_& module) {
  module.def("activation_forward", &activation_forward);
  module.def("activation_backward", &activation_backward);
  module.def("activation_difference", &activation_difference);
});

}  // namespace

}  // namespace fastalign::emulator
