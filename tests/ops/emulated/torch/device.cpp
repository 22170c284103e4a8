// The ops' CUDA bindings on an emulated device: registered for the CPU in a namespace of their own, so that torch calls
// them with its CPU tensors. This file takes the place of csrc/cuda/torch/device.cpp and of what asks torch's CUDA.

#include "cuda/torch/device.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdio>
#include <exception>

#include "cuda/ops/library.h"
#include "cuda/torch/operators.h"
#include "emulator/grid.h"
#include "emulator/memory.h"
#include "emulator/runtime.h"

namespace fastalign {

namespace {

bool usable = true;
cuda::Force forced{};

}  // namespace

bool cuda_usable(int32_t) { return usable; }

TorchDevice::TorchDevice(const Tensor& tensor, Products products) : tensor_(tensor) {
  multiprocessors = 4;
  force = forced;
  if (tensor.scalar_type() == ScalarType::Float) tf32 = allowed_tf32(products).of_matrices;
  emulator::start(/*seed=*/1);
  emulator::clear_buffers();
  emulator::add_buffer({"memory", {nullptr, SIZE_MAX}, /*writable=*/true});
}

void* TorchDevice::scratch(size_t bytes) {
  const auto size = static_cast<int64_t>(bytes);
  scratch_.push_back(torch::stable::new_empty(tensor_, {&size, 1}, ScalarType::Byte));
  return scratch_.back().mutable_data_ptr();
}

bool TorchDevice::multiply(const cuda::View& result, const cuda::View& left, const cuda::View& right, double scale,
                           double keep) {
  const Tensor product = tensor_of(result, tensor_);
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(product.get(), product.get(), tensor_of(left, tensor_).get(),
                                                         tensor_of(right, tensor_).get(), keep, scale));
  return true;
}

STABLE_TORCH_LIBRARY_IMPL(fastalign_emulated, CPU, library) { add_cuda_operators(library); }

}  // namespace fastalign

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void ask_for_precision(PyObject* function) { fastalign::ask_for_precision(function); }
EXPORT int launches() { return fastalign::emulator::launches_of_kernels(); }
EXPORT bool has_fault() {
  try {
    fastalign::emulator::throw_fault();
    return false;
  } catch (const std::exception& fault) {
    std::fputs(fault.what(), stderr);
    return true;
  }
}
EXPORT void set_usable(bool usable) { fastalign::usable = usable; }
EXPORT void set_force(int force) { fastalign::forced = static_cast<fastalign::cuda::Force>(force); }
