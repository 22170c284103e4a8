// Torch's rule for the size of a pooled map.

#pragma once

#include <cstdint>

namespace fastalign {

// Less than 1 where the window does not fit into the padded map.
inline int64_t pooled_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
                           bool ceil_mode) {
  const int64_t reach = size + 2 * padding - dilation * (kernel - 1) - 1;
  if (reach < 0) return 0;
  const int64_t pooled = (reach + (ceil_mode ? stride - 1 : 0)) / stride + 1;
  return ceil_mode && (pooled - 1) * stride >= size + padding ? pooled - 1 : pooled;  // no window in the padding alone
}

}  // namespace fastalign
