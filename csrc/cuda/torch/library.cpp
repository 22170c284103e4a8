#include "cuda/ops/library.h"

#include "cuda/torch/operators.h"

namespace fastalign {

namespace {

std::vector<bool>& usable_devices() {
  static std::vector<bool> devices;
  return devices;
}

}  // namespace

bool cuda_usable(int32_t device_index) {
  const std::vector<bool>& devices = usable_devices();
  return device_index >= 0 && static_cast<size_t>(device_index) < devices.size() && devices[device_index];
}

void register_cuda_kernels(const std::vector<bool>& usable) {
  using torch::stable::detail::StableLibrary;
  usable_devices() = usable;
  static StableLibrary library(StableLibrary::Kind::IMPL, "fastalign", "CUDA", __FILE__, __LINE__);
  static const bool once = (add_cuda_operators(library), true);
  (void)once;
}

}  // namespace fastalign
