#include "emulator/arrays.h"
#include "probes.h"

namespace {

using namespace fastalign::emulator;

void probe(uint64_t schedule, const std::string& name, const Array& result, int64_t argument, bool writable) {
  emulate(schedule, {buffer("result", result, writable)},
          [&] { fastalign::probe(name, static_cast<float*>(data(result)), argument); });
}

}  // namespace

PYBIND11_MODULE(probes, module) { module.def("probe", &probe); }
