// The shared memory whose size is said at launch: a T. The emulator has a header of this name in its place.

#pragma once

namespace fastalign {

template <typename T>
__device__ T* dynamic_shared_memory() {
  // A register that nobody uses: its name tells the table of kernels what the compiler's report does not.
  asm("{ .reg .b32 dynamic_shared_memory_%0; }" ::"n"(sizeof(T)));
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
}

}  // namespace fastalign
