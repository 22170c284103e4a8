// Asynchronous copies into shared memory (cp.async).

#pragma once

#include "emulator/grid.h"

namespace fastalign::emulator {

void start_copy(void* shared, const void* global, int bytes, int source_bytes, Place place);

void commit_copies();

// Waits for the running thread's groups but the last `pending`.
void wait_for_copies(int pending);

}  // namespace fastalign::emulator
