// The dense update ΔW = scale · Σ post ⊗ pre by own kernels: the postsynaptic term is formed on its way, the bias is
// updated in the same pass, and the sink takes the sums as they come.

#pragma once

#include <cstdint>
#include <vector>

#include "cuda/ops/operations.h"

namespace fastalign::cuda {

// Classes of a signal whose feedback term is formed within an update: its rows stay in shared memory.
constexpr int64_t most_fused_classes = 32;

// Updates of one dtype and one kind of post: one launch, and a second stage where sums are split.
void fused_updates(Device& device, Post::Kind kind, const std::vector<LinearUpdate>& updates);

}  // namespace fastalign::cuda
