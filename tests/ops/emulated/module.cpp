#include "emulator/bindings/binding.h"
#include "instructions.h"
#include "probes.h"

namespace fastalign::emulator {

namespace {

void probe(EmulatedDevice& device, const std::string& name, const Array& result, int64_t argument, bool writable) {
  device.run([&] {
    const cuda::View written = writable ? device.writes("result", view(result)) : device.reads("result", view(result));
    fastalign::probe(name, static_cast<float*>(written.data), argument);
  });
}

void instruction(EmulatedDevice& device, const std::string& name, const Array& input, const Array& output) {
  device.run([&] {
    fastalign::instruction(name, static_cast<const uint32_t*>(device.reads("input", view(input)).data),
                           static_cast<uint32_t*>(device.writes("output", view(output)).data), nullptr);
  });
}

const Binding binding([](pybind11::module_& module) {
  module.def("probe", &probe);
  module.def("instruction", &instruction);
});

}  // namespace

}  // namespace fastalign::emulator
