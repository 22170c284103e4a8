// The shared memory of the running block: what it holds at the start, and which threads touch it between barriers.
//
// Two threads may touch the same bytes, one of them writing, only with a barrier between them: whatever order they run
// in, anything else is a fault.

#pragma once

#include <cstddef>
#include <cstdint>

#include "emulator/grid.h"

namespace fastalign::emulator {

struct Region {
  const void* begin;
  size_t bytes;

  bool holds(uintptr_t address, size_t number) const {
    const auto first = reinterpret_cast<uintptr_t>(begin);
    return address >= first && address + number <= first + bytes;
  }
};

// Makes the shared memory of a launch, of which the static part is there already.
void make_shared_memory(Region fixed, size_t dynamic);
void drop_shared_memory();

Region dynamic_shared_memory();

// Fills shared memory with bytes that are NaN in every floating-point dtype, and forgets who has touched it.
void start_shared_memory();

bool is_shared(uintptr_t address, size_t bytes);

// The running thread reads or writes shared memory, or its whole warp reads it together.
enum class Access { read, write, read_by_warp };
void touch_shared_memory(uintptr_t address, size_t bytes, Access access, Where where);

// A copy into shared memory starts and lands: in between nobody may touch it, then the thread itself.
void start_copy_to(uintptr_t shared, size_t bytes, Where where);
void land_copy_to(uintptr_t shared, size_t bytes);

// Orders what the threads of the block, or the lanes of a warp, did before and do afterwards.
void order_threads();
void order_lanes(unsigned warp);

}  // namespace fastalign::emulator
