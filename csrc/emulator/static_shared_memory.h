// How much static shared memory a kernel has.

#pragma once

#include <cstddef>

namespace fastalign::emulator {

// Bytes of a kernel's own variables in shared memory, as its library's symbols tell them.
size_t static_shared_memory(const void* kernel);

}  // namespace fastalign::emulator
