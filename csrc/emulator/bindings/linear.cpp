#include "emulator/bindings/binding.h"

namespace fastalign::emulator {

namespace {

void linear_forward(EmulatedDevice& device, const Array& x, const Array& weight, const std::optional<Array>& bias,
                    int activation, double dropout, const std::optional<Array>& seed, bool, const Array& h,
                    const Array& preactivation) {
  device.run([&] {
    cuda::linear_forward(device, device.reads("x", view(x)), device.reads("weight", view(weight)),
                         device.reads("bias", view(bias)), emulator::activity(device, activation, dropout, seed),
                         device.writes("h", view(h)), device.writes("preactivation", view_unless_empty(preactivation)));
  });
}

void linear_difference(EmulatedDevice& device, const Array& delta, const Array& weight, const Array& preactivation,
                       int activation, double dropout, const std::optional<Array>& seed, const Array& delta_h) {
  device.run([&] {
    cuda::linear_difference(device, device.reads("delta", view(delta)), device.reads("weight", view(weight)),
                            device.reads("preactivation", view(preactivation)),
                            emulator::activity(device, activation, dropout, seed),
                            device.writes("delta_h", view(delta_h)));
  });
}

const Binding binding([](pybind11::module_& module) {
  module.def("linear_forward", &linear_forward);
  module.def("linear_difference", &linear_difference);
});

}  // namespace

}  // namespace fastalign::emulator
