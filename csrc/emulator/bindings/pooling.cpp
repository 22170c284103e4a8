#include <array>

#include "emulator/bindings/binding.h"

namespace fastalign::emulator {

namespace {

using Pair = std::array<int64_t, 2>;

void max_pool2d_difference(EmulatedDevice& device, const Array& h, const Array& delta_h, const Pair& kernel,
                           const Pair& stride, const Pair& padding, const Pair& dilation, bool,
                           const Array& difference) {
  const cuda::Pooling pooling{.kernel = {kernel[0], kernel[1]},
                              .stride = {stride[0], stride[1]},
                              .padding = {padding[0], padding[1]},
                              .dilation = {dilation[0], dilation[1]}};
  device.run([&] {
    cuda::max_pool2d_difference(device, device.reads("h", view(h)), device.reads("delta_h", view(delta_h)), pooling,
                                device.writes("difference", view(difference)));
  });
}

const Binding binding([](pybind11::module_& module) { module.def("max_pool2d_difference", &max_pool2d_difference); });

}  // namespace

}  // namespace fastalign::emulator
