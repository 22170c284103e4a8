// Dropout as the kernels draw it.

#pragma once

#include <cmath>
#include <cstdint>

#include "common/epilogue.h"

namespace fastalign {

// Of a probability of at most 1, none where that is 0; the key is still to be set.
inline Dropout dropout_of(double p) {
  if (p == 0) return {};
  const auto threshold = static_cast<uint64_t>(std::nearbyint(p * 4294967296.0));
  return {.active = true, .threshold = threshold, .keep = 1 - p, .factor = p < 1 ? 1 / (1 - p) : 0};
}

}  // namespace fastalign
