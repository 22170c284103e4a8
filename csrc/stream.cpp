#include "stream.h"

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include <stdexcept>
#include <string>

namespace fastalign {

namespace {

using StreamNativeHandle = AOTITorchError (*)(StreamHandle, void**);
using CurrentCudaStream = AOTITorchError (*)(int32_t, void**);

#ifdef __APPLE__
constexpr const char* suffix = ".dylib";
#else
constexpr const char* suffix = ".so";
#endif

// A function of a library that is already loaded; null where the library or the function is missing.
template <typename Function>
Function find(const char* library, const char* name) {
  void* handle = dlopen((std::string(library) + suffix).c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (handle == nullptr) return nullptr;
  auto function = reinterpret_cast<Function>(dlsym(handle, name));
  dlclose(handle);
  return function;
}

// Both are looked up by name: this binary also loads under a torch that lacks one of them.
StreamNativeHandle stream_native_handle() {
  static const auto function = find<StreamNativeHandle>("libtorch_cpu", "torch_stream_native_handle");
  return function;
}

CurrentCudaStream current_stream_of_cuda_build() {
  static const auto function = find<CurrentCudaStream>("libtorch_cuda", "aoti_torch_get_current_cuda_stream");
  return function;
}

}  // namespace

const char* cuda_stream_source() {
  if (stream_native_handle() != nullptr) return "libtorch_cpu";
  if (current_stream_of_cuda_build() != nullptr) return "libtorch_cuda";
  return nullptr;
}

void* current_cuda_stream(int32_t device_index) {
  void* result = nullptr;
  AOTITorchError failed = 1;
  if (auto native_handle = stream_native_handle()) {
    StreamHandle stream = nullptr;
    failed = aoti_torch_get_current_stream(device_index, &stream);
    if (!failed) {
      failed = native_handle(stream, &result);
      aoti_torch_delete_stream(stream);
    }
  } else if (auto current_stream = current_stream_of_cuda_build()) {
    failed = current_stream(device_index, &result);
  }
  if (failed) {
    throw std::runtime_error("fastalign: torch gives no current CUDA stream for device " +
                             std::to_string(device_index));
  }
  return result;
}

}  // namespace fastalign
