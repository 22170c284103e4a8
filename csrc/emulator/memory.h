// What a kernel may touch, and what shared memory holds at the start of a block.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "emulator/fibre.h"

namespace fastalign::emulator {

struct Region {
  const void* begin;
  size_t bytes;
};

// Global memory that launches may touch.
struct Buffer {
  std::string name;
  Region region;
  bool writable;
};

void clear_buffers();
void add_buffer(Buffer buffer);

// Checks an access of the running kernel that its instrumentation does not see.
void check_access(const void* address, size_t bytes, bool write);

// Checks every access of the instrumented sources while it lives: besides buffers a kernel may touch its stacks and
// shared memory, and read its arguments and its library's constants.
class MemoryOfLaunch {
 public:
  // `kernel` is an address in the library of the kernel, whose thread-local storage exists already.
  MemoryOfLaunch(const void* kernel, Region arguments, size_t dynamic_shared_memory, const Stacks& stacks);
  ~MemoryOfLaunch();
  MemoryOfLaunch(const MemoryOfLaunch&) = delete;
  MemoryOfLaunch& operator=(const MemoryOfLaunch&) = delete;
};

// Fills shared memory, static and dynamic, with bytes that are NaN in every floating-point dtype.
void poison_shared_memory();

void* dynamic_shared_memory();

}  // namespace fastalign::emulator
