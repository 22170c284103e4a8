#include "cuda/kernels/product.h"

#include "cuda/choice.h"
#include "emulator/bindings/binding.h"

namespace fastalign::emulator {

namespace {

// The tiled kernel, whatever would be chosen.
void fused_product(EmulatedDevice& device, const Array& left, const Array& right, const Array& result) {
  device.run([&] {
    const cuda::View written = device.writes("result", view(result));
    cuda::fused_product(
        device, device.reads("left", view(left)), device.reads("right", view(right)),
        {.finish = Finish::scale, .result = written.data, .rows = written.sizes[0], .columns = written.sizes[1]});
  });
}

std::string choose(const EmulatedDevice& device, const Array& left, const Array& right) {
  const cuda::View l = view(left);
  switch (cuda::choose(device, l.dtype, l.sizes[0], view(right).sizes[0], l.sizes[1])) {
    case cuda::Method::projection:
      return "projection";
    case cuda::Method::fused:
      return "fused";
    case cuda::Method::library:
      break;
  }
  return "library";
}

const Binding binding([](pybind11::module_& module) {
  module.def("fused_product", &fused_product);
  module.def("choose", &choose);
});

}  // namespace

}  // namespace fastalign::emulator
