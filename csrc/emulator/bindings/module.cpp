// The Python module of the emulated operations; the other files here add to it.

#include <stdexcept>
#include <utility>

#include "common/dropout.h"
#include "emulator/bindings/binding.h"
#include "emulator/taken_out.h"

namespace fastalign::emulator {

namespace {

using cuda::Force;

constexpr std::pair<const char*, Dtype> dtypes[] = {{"float64", Dtype::float64},
                                                    {"float32", Dtype::float32},
                                                    {"bfloat16", Dtype::bfloat16},
                                                    {"float16", Dtype::float16}};
constexpr std::pair<const char*, Force> forces[] = {
    {"nothing", Force::nothing}, {"fused", Force::fused}, {"library", Force::library}};

template <typename T, size_t number>
T named(const std::pair<const char*, T> (&values)[number], const std::string& name, const char* what) {
  for (const auto& [known, value] : values) {
    if (name == known) return value;
  }
  throw std::invalid_argument(std::string(what) + ": got " + name + ", which is not known here");
}

std::vector<void (*)(pybind11::module_&)>& definitions() {
  static std::vector<void (*)(pybind11::module_&)> all;
  return all;
}

}  // namespace

cuda::View view(const Array& array) {
  const auto& [address, dtype, sizes, strides] = array;
  if (sizes.size() > 4) throw std::invalid_argument("a tensor: expected at most 4 dimensions");
  cuda::View view{.data = reinterpret_cast<void*>(address),
                  .dtype = named(dtypes, dtype, "dtype"),
                  .dimensions = static_cast<int>(sizes.size())};
  std::copy(sizes.begin(), sizes.end(), view.sizes);
  std::copy(strides.begin(), strides.end(), view.strides);
  return view;
}

cuda::View view_of_integers(Array array) {
  std::get<std::string>(array) = "float64";
  return view(array);
}

cuda::View view(const std::optional<Array>& array) { return array ? view(*array) : cuda::View{}; }

cuda::View view_unless_empty(const Array& array) {
  const cuda::View all = view(array);
  for (int i = 0; i < all.dimensions; ++i) {
    if (all.sizes[i] == 0) return {};
  }
  return all;
}

cuda::Activity activity(EmulatedDevice& device, int activation, double dropout, const std::optional<Array>& seed) {
  cuda::Activity activity{.activation = static_cast<Activation>(activation), .dropout = dropout_of(dropout)};
  if (dropout == 0) return activity;
  activity.seed = device.reads("seed", view_of_integers(seed.value()));
  return activity;
}

Binding::Binding(void (*define)(pybind11::module_& module)) { definitions().push_back(define); }

namespace {

void define(pybind11::module_& module) {
  pybind11::class_<EmulatedDevice>(module, "Device", pybind11::module_local())
      .def(pybind11::init())
      .def_readwrite("schedule", &EmulatedDevice::schedule)
      .def_readwrite("multiprocessors", &EmulatedDevice::multiprocessors)
      .def_readwrite("tf32", &EmulatedDevice::tf32)
      .def_readwrite("tf32_of_convolutions", &EmulatedDevice::tf32_of_convolutions)
      .def_readwrite("library", &EmulatedDevice::library)
      .def_readonly("launches", &EmulatedDevice::launches)
      .def_readonly("products", &EmulatedDevice::products)
      .def("set_force",
           [](EmulatedDevice& device, const std::string& name) { device.force = named(forces, name, "force"); });
  module.def("take_out", &take_out);
  module.def("parts_reached", &parts_reached);
  for (const auto& add : definitions()) add(module);
}

}  // namespace

}  // namespace fastalign::emulator

PYBIND11_MODULE(emulated, module) { fastalign::emulator::define(module); }
