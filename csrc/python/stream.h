// The CUDA stream that torch is using, asked of whichever torch is loaded.

#pragma once

#include <cstdint>

namespace fastalign {

// The current stream (a cudaStream_t) of a device. Throws std::runtime_error where torch gives none: never a default.
void* current_cuda_stream(int32_t device_index);

// Where `current_cuda_stream` gets it: "libtorch_cpu" (the stable accelerator interface, from torch 2.13),
// "libtorch_cuda" (the C shim of CUDA builds before), or a null pointer where there is neither.
const char* cuda_stream_source();

}  // namespace fastalign
