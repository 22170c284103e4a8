// How a sum is split, and the second stage: it adds the parts in a fixed order, and hands each total to its sink.

#pragma once

#include <cstdint>
#include <vector>

#include "cuda/ops/operations.h"

namespace fastalign::cuda {

// Part s of element i is parts[s · stride + i]. One part is a pass of a sink over a gradient that is there; without
// parts every total is 0.
struct SplitSum {
  const void* parts{};
  int64_t stride{};
  int64_t number{};  // of parts
  int64_t elements{};
  double scale{};  // of the totals
  Sink sink{};
  bool narrow{};  // whether the parts are of the dtype of the sink's tensors, not of their sums
};

// In elements: that of parts of so many elements, which all begin at a multiple of 16 bytes.
FASTALIGN_HOST_DEVICE inline int64_t part_stride(int64_t elements) { return (elements + 3) / 4 * 4; }

// The steps of a sum of `steps` that a block takes, where `tiles` blocks would take them all: fewer where they leave
// multiprocessors idle.
int64_t steps_of_part(int64_t tiles, int64_t steps, int multiprocessors);

// A sink of the parts of a sum, of tensors of a dtype, in scratch memory; the second stage of `sums` then adds them up
// for the sink that was asked for.
Sink sink_of_parts(Device& device, const Sink& sink, double scale, int64_t elements, int64_t parts, Dtype dtype,
                   std::vector<SplitSum>& sums);

// Of tensors of a dtype, whose sums are float32, or float64 for float64; in one launch.
void second_stage(Device& device, const std::vector<SplitSum>& sums, Dtype dtype);

}  // namespace fastalign::cuda
