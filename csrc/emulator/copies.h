// Asynchronous copies into shared memory (cp.async). A copy lands when the thread that started it waits for its group,
// not before, and other threads may read it after the next barrier.

#pragma once

#include "emulator/grid.h"

namespace fastalign::emulator {

void start_copy(void* shared, const void* global, int bytes, int source_bytes, Place place);

// Closes a group of the running thread's copies.
void commit_copies();

// Waits for the running thread's groups but the last `pending`.
void wait_for_copies(int pending);

// A block starts: its threads have started no copies yet.
void forget_copies(unsigned threads);

}  // namespace fastalign::emulator
