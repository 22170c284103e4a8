#include "python/stream.h"

#include <torch/csrc/stable/accelerator.h>

#include <stdexcept>
#include <string>

#include "python/loaded.h"

namespace fastalign {

namespace {

using StreamNativeHandle = AOTITorchError (*)(StreamHandle, void**);
using CurrentCudaStream = AOTITorchError (*)(int32_t, void**);

// Both are looked up by name: this binary also loads under a torch that lacks one of them.
StreamNativeHandle stream_native_handle() {
  static const auto function = find_loaded<StreamNativeHandle>("libtorch_cpu", "torch_stream_native_handle");
  return function;
}

CurrentCudaStream current_stream_of_cuda_build() {
  static const auto function = find_loaded<CurrentCudaStream>("libtorch_cuda", "aoti_torch_get_current_cuda_stream");
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
