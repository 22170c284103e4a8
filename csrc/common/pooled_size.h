// Torch's rule for the size of a pooled map, and what every window must have.

#pragma once

#include <cstdint>

namespace fastalign {

// Less than 1 where the window does not fit into the padded map.
inline int64_t pooled_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
                           bool ceil_mode) {
  const int64_t reach = size + 2 * padding - dilation * (kernel - 1) - 1 + (ceil_mode ? stride - 1 : 0);
  if (reach < 0) return 0;
  const int64_t pooled = reach / stride + 1;
  return ceil_mode && (pooled - 1) * stride >= size + padding ? pooled - 1 : pooled;  // no window in the padding alone
}

// Whether each of the pooled windows has a place in the map: those that begin before it may step over it.
inline bool windows_meet_map(int64_t size, int64_t stride, int64_t padding, int64_t dilation, int64_t pooled) {
  for (int64_t window = 0; window < pooled && window * stride < padding; ++window) {
    const int64_t before = padding - window * stride;
    if ((dilation - before % dilation) % dilation >= size) return false;
  }
  return true;
}

}  // namespace fastalign
