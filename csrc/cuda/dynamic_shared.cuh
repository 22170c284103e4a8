// The shared memory whose size is said at launch. The emulator has a header of this name in its place.

#pragma once

namespace fastalign {

template <typename T>
__device__ T* dynamic_shared_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
}

}  // namespace fastalign
