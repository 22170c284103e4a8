#include "emulator/bindings/binding.h"
#include "probes.h"

namespace fastalign::emulator {

namespace {

void probe(EmulatedDevice& device, const std::string& name, const Array& result, int64_t argument, bool writable) {
  device.run([&] {
    const cuda::View written = writable ? device.writes("result", view(result)) : device.reads("result", view(result));
    fastalign::probe(name, static_cast<float*>(written.data), argument);
  });
}

const Binding binding([](pybind11::module_& module) { module.def("probe", &probe); });

}  // namespace

}  // namespace fastalign::emulator
