// Stands in for CUDA's header of this name: as much of the language and the runtime as is emulated. Types and
// declarations are CUDA's own; what is not emulated does not compile, or does not link.

#pragma once

#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <cmath>
#include <concepts>
#include <cstdint>
#include <tuple>

#include "emulator/grid.h"

// Blocks run one after another on one CPU thread, so that one copy of shared memory serves all. `used` keeps the
// compiler from concluding what a variable holds from the values that are written to it alone.
#undef __shared__
#define __shared__ __attribute__((used)) thread_local

#undef __launch_bounds__
#define __launch_bounds__(...)

extern const uint3& threadIdx;
extern const uint3& blockIdx;
extern const dim3& blockDim;
extern const dim3& gridDim;

inline void __syncthreads(fastalign::emulator::Place place = fastalign::emulator::Place::current()) {
  fastalign::emulator::wait_for_block(place);
}

template <std::integral T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <std::integral T>
T max(T a, T b) {
  return a < b ? b : a;
}
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

#include "emulator/runtime.h"
#include "emulator/warp.h"

namespace fastalign::emulator {

template <typename... Parameters>
struct Closure {
  void (*kernel)(Parameters...);
  std::tuple<Parameters...> arguments;

  static void call(const void* closure) {
    const auto& self = *static_cast<const Closure*>(closure);
    std::apply(self.kernel, self.arguments);
  }
};

}  // namespace fastalign::emulator

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* configuration, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  // The first access of a library to its thread-local storage, and so to shared memory, allocates that.
  [[maybe_unused]] static thread_local volatile unsigned char touched;
  touched = 0;
  using Closure = fastalign::emulator::Closure<Parameters...>;
  const Closure closure{kernel, {static_cast<Arguments&&>(arguments)...}};
  const fastalign::emulator::Kernel emulated{reinterpret_cast<const void*>(kernel), &Closure::call, &closure,
                                             sizeof(closure)};
  return fastalign::emulator::launch(*configuration, emulated);
}
