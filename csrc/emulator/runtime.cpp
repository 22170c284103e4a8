// The functions of CUDA's runtime that launches go through, with the limits of all supported devices.

#include "emulator/runtime.h"

#include <algorithm>
#include <cstdint>
#include <map>

#include "emulator/static_shared_memory.h"

namespace {

using fastalign::emulator::static_shared_memory;

constexpr uint64_t most_threads = 1024;
constexpr unsigned most_blocks_across = 65535;  // in y and z
constexpr unsigned most_blocks = 2147483647;    // in x
// A block has so many bytes, static and dynamic together.
constexpr size_t usual_shared_memory = size_t{48} << 10;
constexpr size_t most_shared_memory = size_t{227} << 10;  // where a kernel asks for it

int launches = 0;

// The dynamic part of what kernels asked for.
std::map<const void*, size_t>& allowed_shared_memory() {
  static std::map<const void*, size_t> bytes;
  return bytes;
}

bool fits_in_shared_memory(size_t dynamic, const void* kernel) {
  const auto allowed = allowed_shared_memory().find(kernel);
  if (allowed != allowed_shared_memory().end()) return dynamic <= allowed->second;
  return static_shared_memory(kernel) + dynamic <= usual_shared_memory;
}

bool fits(dim3 grid, dim3 block, size_t shared_memory, const void* kernel) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  return threads >= 1 && threads <= most_threads && std::max(block.x, block.y) <= most_threads && block.z <= 64 &&
         std::min({grid.x, grid.y, grid.z}) >= 1 && grid.x <= most_blocks &&
         std::max(grid.y, grid.z) <= most_blocks_across && fits_in_shared_memory(shared_memory, kernel);
}

}  // namespace

namespace fastalign::emulator {

cudaError_t launch(const cudaLaunchConfig_t& configuration, const Kernel& kernel) {
  if (configuration.numAttrs != 0) fault("a launch with attributes, which are not emulated,");
  if (!fits(configuration.gridDim, configuration.blockDim, configuration.dynamicSmemBytes, kernel.function)) {
    return cudaErrorInvalidConfiguration;
  }
  ++launches;
  run(kernel, configuration.gridDim, configuration.blockDim, configuration.dynamicSmemBytes);
  return cudaSuccess;
}

int launches_of_kernels() { return launches; }

}  // namespace fastalign::emulator

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_shared_memory(kernel) + static_cast<size_t>(value) > most_shared_memory) {
    return cudaErrorInvalidValue;
  }
  allowed_shared_memory()[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int*, cudaDeviceAttr, int) { return cudaErrorInvalidValue; }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    default:
      return "invalid argument";
  }
}
