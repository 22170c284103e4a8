// What a kernel may touch: every access of the instrumented sources is checked while a launch runs.

#pragma once

#include <cstddef>
#include <string>

#include "emulator/fibre.h"
#include "emulator/shared_memory.h"

namespace fastalign::emulator {

// Global memory that launches may touch.
struct Buffer {
  std::string name;
  Region region;
  bool writable;
};

void clear_buffers();
void add_buffer(Buffer buffer);

// Whether a buffer holds it all, and may be written if that is asked for.
bool is_in_a_buffer(Region region, bool writable);

// Checks every access while it lives: besides buffers a kernel may touch its stacks and shared memory, and read its
// arguments and its library's constants.
class MemoryOfLaunch {
 public:
  // `kernel` is an address in the library of the kernel, whose thread-local storage exists already.
  MemoryOfLaunch(const void* kernel, Region arguments, size_t dynamic_shared_memory, const Stacks& stacks);
  ~MemoryOfLaunch();
  MemoryOfLaunch(const MemoryOfLaunch&) = delete;
  MemoryOfLaunch& operator=(const MemoryOfLaunch&) = delete;
};

// Checks the addresses of an instruction, which faults call `what`.
void check_global_read(const void* address, size_t bytes, const char* what, Where where);
void check_shared(const void* address, size_t bytes, const char* what, Where where);
void check_alignment(const void* address, size_t alignment, const char* what, Where where);

}  // namespace fastalign::emulator
